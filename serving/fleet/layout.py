"""Which engines a fleet has: how the plan's copies share the GPUs, and what each engine is started with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from serving.errors import ConfigurationError, DoesNotFit, Refused
from serving.hardware.visible import VARIABLE
from serving.launch import find_hardware, settle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serving.fleet.settings import FleetSettings
    from serving.hardware.gpu import Gpu
    from serving.launch import Settled
    from serving.planning.plan import Plan
    from serving.settings import ServeSettings

WITHOUT_GPU = 2  # try-out engines, to show what a fleet does
# The fleet's own: an engine listens on loopback, for the fleet alone.
OF_THE_FLEET = ("SERVE_TLS_CERT", "SERVE_TLS_KEY", "SERVE_ALLOW_OPEN", "LLM_BASE_URL")


@dataclass(frozen=True)
class Share:
    """The GPUs of one engine, as CUDA_VISIBLE_DEVICES names them; none on the CPU. `sharing` share one copy."""

    gpus: tuple[Gpu, ...] = ()
    devices: tuple[str, ...] = ()
    sharing: int | None = None


@dataclass(frozen=True)
class Layout:
    """The engines of this machine, and what is served by all of them."""

    settled: Settled
    plan: Plan
    shares: tuple[Share, ...]

    @property
    def devices(self) -> tuple[tuple[str, ...], ...]:
        """Return which GPUs each engine has: what a rolling restart cannot change."""
        return tuple(share.devices for share in self.shares)

    def __str__(self) -> str:
        """Return the layout in one line."""
        count = len(self.shares)
        each = len(self.shares[0].gpus)
        where = f"on {each} GPU{'s' if each > 1 else ''}{' each' if count > 1 else ''}" if each else "on the CPU"
        return f"{count} engine{'s' if count > 1 else ''} {where}"


@dataclass(frozen=True)
class Start:
    """What one engine is started with. The environment holds secrets, and stays out of the repr, as the key does."""

    env: dict[str, str] = field(repr=False)
    key: str | None = field(repr=False)
    timeout: float
    drain: float


def lay_out(settings: ServeSettings, fleet: FleetSettings) -> Layout:
    """Plan for this machine, and share its GPUs out. Raises ConfigurationError, DoesNotFit or Refused.

    As many engines as the plan for all GPUs has copies; or as many as are asked for, each with an equal part of the
    GPUs, for which it plans by itself.
    """
    hardware = find_hardware(settings)
    if hardware.problem is not None:
        raise Refused(f"{hardware.problem}.")
    settled = settle(settings, gpu=bool(hardware.gpus))
    names = tuple(gpu.id or str(number) for number, gpu in enumerate(hardware.gpus))
    count, engines = len(hardware.gpus), fleet.engines
    if count and engines is not None:
        if engines > count:
            raise ConfigurationError(
                f"FLEET_ENGINES={engines} is not allowed: each needs a GPU, and there are {count}."
            )
        each = count // engines
        plan = settled.plan(replace(hardware, gpus=hardware.gpus[:each], restricted=each < count))
        gpus, copies, sharing = hardware.gpus, engines, None
    else:
        plan = settled.plan(hardware)
        each = sharing = plan.tensor_parallel_size or 1
        names, gpus, copies = plan.devices or names, plan.gpus, len(plan.gpus) // each
    if not plan.fits:
        raise DoesNotFit(plan.reason)
    if not plan.gpus:
        return Layout(settled, plan, (Share(),) * (engines or WITHOUT_GPU))
    starts = range(0, copies * each, each)
    return Layout(
        settled,
        plan,
        tuple(Share(gpus[start : start + each], names[start : start + each], sharing) for start in starts),
    )


def engine_start(number: int, share: Share, settings: ServeSettings, base: Mapping[str, str]) -> Start:
    """Return what engine `number` (from 1) is started with, but for its port: `base` is today's environment and .env.

    The engine reads no .env, so that it is started again with the same settings whatever stands there by then.
    """
    env = {name: value for name, value in base.items() if name not in OF_THE_FLEET}
    ui = settings.ui if settings.ui is not None else settings.loopback
    env |= {"SERVE_HOST": "127.0.0.1", "SERVE_UI": str(int(ui))}
    key = settings.api_key.get_secret_value() if settings.api_key else None
    if key is not None:
        env["SERVE_API_KEY"] = key
    if settings.log_file is not None:
        file = Path(settings.log_file)
        env["SERVE_LOG_FILE"] = str(file.with_name(f"{file.stem}.{number}{file.suffix}"))
    if share.gpus:
        if share.sharing is not None:
            env["SERVE_TENSOR_PARALLEL_SIZE"] = str(share.sharing)
        if settings.gpus is not None:
            env["SERVE_GPUS"] = ", ".join(f"1x {gpu.name}" for gpu in share.gpus)
        else:
            env[VARIABLE] = ",".join(share.devices)
    return Start(env, key, settings.startup_timeout, settings.shutdown_timeout)
