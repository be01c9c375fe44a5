"""Values for vLLM's production stack.

Source: the chart's helm/values.schema.json.
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from serving.commands.export.deployment import IMAGE, MOUNT, NAME, as_yaml, deployment
from serving.engine.command import GEMMA_TEMPLATE
from serving.engine.process import EXIT_MARGIN_S
from serving.engine.program import pinned_version
from serving.settings import DEFAULT_PORT, STARTUP_S

if TYPE_CHECKING:
    import argparse

LEAVING_S = 10  # until every router has seen that a pod is going


def helm(args: argparse.Namespace) -> str:
    """Return values for vLLM's production-stack chart."""
    made = deployment(args.gpus, host="0.0.0.0")  # noqa: S104 (inside a pod)
    # The chart itself writes the model, the address and the template's flag; the guard is a file of this checkout.
    flags = made.flags(without={"--host": 1, "--port": 1, "--chat-template": 1, "--middleware": 1})
    model: dict[str, Any] = {
        "name": "gemma",
        "repository": IMAGE,
        "tag": f"v{pinned_version('cuda')}",
        "modelURL": made.checkpoint,
        "replicaCount": args.replicas,
        "requestCPU": 4 * made.gpus,
        "requestMemory": "32Gi",
        "requestGPU": made.gpus,
        "pvcStorage": f"{made.plan.weights_gib * 2 + 10:.0f}Gi",
        "hf_token": {"secretName": NAME, "secretKey": "hf-token"},
        "env": [{"name": name, "value": value} for name, value in sorted(made.env.items())],
        # Without the first, the chart turns prefix caching off.
        "vllmConfig": {"enablePrefixCaching": True, "extraArgs": flags},
    }
    if made.gpus > 1:
        model["shmSize"] = "20Gi"
    if args.replicas > 1:
        model["pvcAccessMode"] = ["ReadWriteMany"]  # one claim holds the weights for all of them
    files = made.code
    if files:
        model["extraVolumes"] = [{"name": NAME, "configMap": {"name": NAME}}]
        model["extraVolumeMounts"] = [{"name": NAME, "mountPath": MOUNT, "readOnly": True}]
    if made.templates:
        model |= {"chatTemplate": GEMMA_TEMPLATE.name, "chatTemplateConfigMap": GEMMA_TEMPLATE.read_text("utf-8")}
    engine: dict[str, Any] = {"modelSpec": [model], "startupProbe": _probe(failures=int(STARTUP_S) // 10)}
    keys = ["--from-file=hf-token=FILE"]
    if made.settings.api_key is not None:
        engine["vllmApiKey"] = {"secretName": NAME, "secretKey": "api-key"}
        keys.append("--from-file=api-key=FILE")
    # The chart has no values for these: they are set once beside it, and stay through upgrades.
    drain = made.settings.shutdown_timeout
    pod = {
        "terminationGracePeriodSeconds": int(LEAVING_S + drain + EXIT_MARGIN_S),
        "containers": [{"name": "vllm", "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(LEAVING_S)]}}}}],
    }
    patch = json.dumps({"spec": {"template": {"spec": pod}}})
    head = (
        "vLLM's production stack (https://github.com/vllm-project/production-stack). Secrets first, each from a file:",
        f"  kubectl create secret generic {NAME} {' '.join(keys)}",
        *(
            [f"  kubectl create configmap {NAME} {shlex.join(f'--from-file={file}' for file in files)}"]
            if files
            else []
        ),
        "  helm repo add vllm https://vllm-project.github.io/production-stack",
        "  helm install gemma vllm/vllm-stack -f THIS_FILE",
        f"Once, so that a pod that ends leaves the router first and finishes its requests (up to {drain:.0f} s):",
        f"  kubectl patch deployment gemma-gemma-deployment-vllm --patch {shlex.quote(patch)}",
        "Later changes: helm upgrade gemma vllm/vllm-stack -f THIS_FILE",
    )
    values = {"servingEngineSpec": engine, "routerSpec": {"routingLogic": "prefixaware"}}
    return as_yaml(head, values)


def _probe(failures: int) -> dict[str, Any]:
    return {
        "initialDelaySeconds": 15,
        "periodSeconds": 10,
        "failureThreshold": failures,
        "httpGet": {"path": "/health", "port": DEFAULT_PORT},
    }
