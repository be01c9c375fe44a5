"""What RunPod's answers look like: GPU types, releases, bills."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

CREATED_AT = "2026-11-01T00:00:00Z"

# What a GPU type looks like in the catalogue: id, pool, GB, USD per hour on serverless.
GPUS = (
    ("NVIDIA L4", "AMPERE_24", 24, 0.69),
    ("NVIDIA RTX A5000", "AMPERE_24", 24, 0.69),
    ("NVIDIA GeForce RTX 4090", "ADA_24", 24, 1.10),
    ("NVIDIA A40", "AMPERE_48", 48, 1.22),
    ("NVIDIA RTX A6000", "AMPERE_48", 48, 1.22),
    ("NVIDIA L40S", "ADA_48_PRO", 48, 1.90),
    ("NVIDIA A100 80GB PCIe", "AMPERE_80", 80, 2.72),
    ("NVIDIA A100-SXM4-80GB", "AMPERE_80", 80, 2.72),
    ("NVIDIA H100 80GB HBM3", "ADA_80_PRO", 80, 4.18),
    ("NVIDIA H200", "HOPPER_141", 141, 5.58),
    ("NVIDIA GeForce RTX 3080", None, 10, None),
)
BOOT = (  # what a worker says of itself, poll by poll
    {"status": "THROTTLED"},
    {"status": "INITIALIZING", "gpuTypeId": "NVIDIA A40", "dataCenterId": "EU-RO-1"},
    {"status": "INITIALIZING", "gpuTypeId": "NVIDIA A40", "dataCenterId": "EU-RO-1", "uptimeSeconds": 4},
    {"status": "IDLE", "gpuTypeId": "NVIDIA A40", "dataCenterId": "EU-RO-1", "uptimeSeconds": 9},
)


def in_stock(gpu: Json, query: Any) -> Json:
    """Return a GPU type with what is in stock of it for this query."""
    limits = gpu.get("_stock", {})
    level = limits.get("availability", gpu["availability"])
    count, cuda = int(query.get("count", 1)), query.get("minCudaVersion", "0")
    if count > limits.get("count", 99) or float(cuda) > float(limits.get("cuda", 99)):
        level = "NONE"
    shown = {name: value for name, value in gpu.items() if name != "_stock"} | {"availability": level}
    centers = limits.get("centers")
    if centers is not None and level != "NONE":
        shown["dataCenters"] = [{"id": name, "name": name, "availability": level} for name in centers]
    return shown


def diff(old: Json, new: Json) -> list[Json]:
    """Name changes as RunPod does: what is in the template by its inner name, the rest by the API's."""
    inner = {"image": "template.imageName", "env": "template.env", "disk": "template.containerDiskInGb"}
    diff = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if name in ("workers", "gpu") and before != after:
            diff += [
                {"field": f"{name}.{part}", "old": before.get(part), "new": after.get(part)}
                for part in sorted(before.keys() | after.keys())
                if before.get(part) != after.get(part)
            ]
        elif before != after:
            diff.append({"field": inner.get(name, name), "old": before, "new": after})
    return diff


def release(version: int, diff: list[Json]) -> Json:
    return {
        "id": f"release{version}", "version": version, "source": "MANUAL", "workerCount": 0,
        "createdAt": CREATED_AT, "diff": diff,
    }  # fmt: skip


def gpu_type(gpu: str, pool: str | None, memory: int, price: float | None) -> Json:
    serverless = {} if price is None else {"serverless": price}
    return {
        "id": gpu, "name": gpu.removeprefix("NVIDIA "), "pool": pool, "manufacturer": "NVIDIA", "memory": memory,
        "secure": True, "community": False, "price": {"secure": 1.0, "community": 0.0, **serverless},
        "maxCount": {"secure": 8, "community": 0}, "availability": "HIGH",
    }  # fmt: skip


def billing(endpoint: str) -> Json:
    span = {"startTime": CREATED_AT, "endTime": "2026-11-02T00:00:00Z"}
    amounts = {"totalAmount": 1.5, "gpuAmount": 1.4, "cpuAmount": 0.0, "diskAmount": 0.1, "feeAmount": 0.0}
    query = {**span, "bucketSize": "day", "serverlessId": endpoint}
    metadata = {"query": query, "recordCount": 1, "uniqueServerlessCount": 1, "totals": amounts}
    return {"records": [{**span, **amounts, "serverlessId": endpoint}], "metadata": metadata}
