"""RunPod's answers, as far as the kit reads them: an answer that is not like this is an error with one sentence.

null means absent. What a request cannot do without is required here; everything else has a default, and what is not
named is not looked at. Source: the API's description (components/schemas).
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator
from pydantic.alias_generators import to_camel

Json = dict[str, Any]

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")]  # it becomes a part of addresses


class Answer(BaseModel):
    """What all answers have in common."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        coerce_numbers_to_str=True,
        frozen=True,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


A = TypeVar("A", bound=Answer)


def read(model: type[A], content: bytes | str) -> A:
    """Return an answer. Raises ValueError with what is odd about it: no JSON, or not what RunPod describes."""
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}" if where else str(first["msg"])) from None


class Problem(Answer):
    """An error of the API (RFC 9457)."""

    title: str = ""
    detail: str = ""
    errors: list[str] = []


class Nothing(Answer):
    """An answer whose content says nothing."""


class Gpu(Answer):
    """The GPUs of an endpoint."""

    pools: list[str] = []
    excluded_types: list[str] = []
    count: int = 1
    min_cuda_version: str = ""
    allowed_cuda_versions: list[str] = []


class WorkerBounds(Answer):
    """How many workers an endpoint may have."""

    min: int = 0
    max: int = 0
    idle_timeout: int | None = None


class Scaling(Answer):
    """When workers are added."""

    type: str = "QUEUE_DELAY"
    queue_delay: float | None = None
    request_count: int | None = None


class Urls(Answer):
    """The endpoint's own addresses: `base` is a load balancer's, `run` and `cancel` are a queue's."""

    run: str | None = None
    cancel: str | None = None
    health: str | None = None
    base: str | None = None


class Endpoint(Answer):
    """An endpoint."""

    id: Id
    name: str
    type: str = "QUEUE"
    image: str | None = None
    disk: int | None = None
    args: str = ""
    env: dict[str, str] = {}
    ports: list[str] = []
    registry: str | None = None
    gpu: Gpu = Gpu()
    workers: WorkerBounds = WorkerBounds()
    scaling: Scaling = Scaling()
    data_center_ids: list[str] = []
    network_volumes: list[str] = []
    timeout: int | None = None
    flashboot: str = "OFF"
    created_at: str = ""
    request_urls: Urls = Urls()

    @property
    def body(self) -> Json:
        """Return the fields that can be set, as a request names them, and only those that the answer had."""
        given = self.model_dump(by_alias=True, exclude_unset=True)
        return {name: value for name, value in given.items() if name not in ("id", "createdAt", "requestUrls")}

    @property
    def base_url(self) -> str | None:
        """Return the OpenAI base URL, from the addresses that the API gave; None if it gave none."""
        if self.request_urls.base:
            return self.request_urls.base.rstrip("/") + "/v1"
        if self.request_urls.run:
            return self.request_urls.run.removesuffix("/run") + "/openai/v1"
        return None

    def is_called(self, name: str) -> bool:
        """Return whether it bears a name; RunPod used to mark FlashBoot by a suffix ` -fb` on it."""
        return name in (self.name, self.name.removesuffix("-fb").strip())


class EndpointList(Answer):
    """All endpoints of the account."""

    endpoints: list[Endpoint]


class Worker(Answer):
    """A worker of an endpoint. `uptime_seconds` is None until it runs, `gpu_type_id` until it has a place."""

    id: Id
    status: str
    is_stale: bool = False
    version: int | None = None
    uptime_seconds: int | None = None
    gpu_type_id: str | None = None
    data_center_id: str | None = None


class WorkerList(Answer):
    """The workers of an endpoint."""

    workers: list[Worker]

    @property
    def unhealthy(self) -> list[Worker]:
        """Return the workers that fail their health checks."""
        return [worker for worker in self.workers if worker.status == "UNHEALTHY"]


class DiffEntry(Answer):
    """One field that a release changed; None where it was added or removed."""

    field: str
    old: Any = None
    new: Any = None


class Release(Answer):
    """A release: what was changed when."""

    version: int | None = None
    created_at: str = ""
    diff: list[DiffEntry] = []


class Rollout(Answer):
    """How far the newest release has come."""

    in_progress: bool = False
    workers_on_latest: int = 0
    workers_total: int = 0


class ReleaseList(Answer):
    """The releases of an endpoint, newest first."""

    releases: list[Release]
    rollout: Rollout = Rollout()
    endpoint_version: int | None = None


class Prices(Answer):
    """USD per hour for one GPU."""

    serverless: float | None = None


class Place(Answer):
    """A data centre that has a GPU type, and how many of it."""

    id: str
    availability: str | None = None


class GpuType(Answer):
    """A GPU type of the catalogue. `availability` is HIGH, MEDIUM, LOW or NONE."""

    id: str
    pool: str | None = None
    memory: float = 0
    price: Prices = Prices()
    availability: str | None = None
    data_centers: list[Place] = []


class GpuTypeList(Answer):
    """The catalogue's GPU types."""

    gpus: list[GpuType]


class NetworkVolume(Answer):
    """A network volume; `size` in GB."""

    id: Id
    name: str = ""
    size: float = 0
    data_center: str = ""


class Totals(Answer):
    """An amount of money, in USD."""

    total_amount: float


class BillingMetadata(Answer):
    """What the records add up to."""

    totals: Totals


class Billing(Answer):
    """What an endpoint has cost."""

    metadata: BillingMetadata


class Health(Answer):
    """What a queue says of itself: its jobs, by state."""

    jobs: dict[str, int]


class Job(Answer):
    """A job that was taken into the queue."""

    id: Id


class LogEvent(Answer):
    """A line of a worker's log."""

    source: str = ""
    line: str = ""
    ts: str = ""
