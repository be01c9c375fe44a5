"""`python -m serving fleet`: several engines on this machine, and others by address, behind one address."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
from typing import TYPE_CHECKING, Any

import uvloop

from client.variables import EnvFileError, read_env_file
from serving.checks.settings import callers
from serving.engine.command import reachable
from serving.engine.port import refuse_taken_port
from serving.engine.program import ENGINE_PYTHON
from serving.errors import ConfigurationError, ServingError
from serving.fleet import control
from serving.fleet.child import Child
from serving.fleet.console import Console
from serving.fleet.fleet import Fleet
from serving.fleet.layout import Layout, Start, engine_start, lay_out
from serving.fleet.reload import Reload, gap
from serving.fleet.settings import FleetSettings
from serving.model import tryout as tryouts
from serving.settings import ServeSettings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `fleet`; everything else is a setting."""
    parser.add_argument("--dry-run", action="store_true", help="print the engines and start nothing")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it; return 0. Raises ServingError."""
    made = _Made.today()
    print(f"{made.layout.settled.summary(made.layout.plan)}", f"Fleet: {made.layout}.", sep="\n", flush=True)
    if args.dry_run:
        return 0
    refuse_taken_port(made.serve.host, made.serve.port)
    tryout = made.layout.settled.tryout
    if tryout is not None:  # once, and not by each engine
        tryouts.checkpoint(tryout, made.serve.cache_dir, ENGINE_PYTHON, print)
    console = Console()
    try:
        return uvloop.run(_run(made, console.say))  # every token passes here: 0.6 of asyncio's time
    finally:
        console.close()


class _Made:
    """What the settings say, as they were when they were read."""

    def __init__(self, serve: ServeSettings, fleet: FleetSettings, layout: Layout, starts: tuple[Start, ...]) -> None:
        self.serve, self.fleet, self.layout, self.starts = serve, fleet, layout, starts

    @classmethod
    def today(cls) -> _Made:
        """Read the environment and `.env`. Raises ServingError."""
        serve, fleet = ServeSettings.load(), FleetSettings.load()
        if (check := callers(serve)).stops:
            raise check.refusal()
        layout = lay_out(serve, fleet)
        try:
            base = {**read_env_file(".env"), **{name: value for name, value in os.environ.items() if value}}
        except EnvFileError as error:
            raise ConfigurationError(str(error)) from error
        starts = (engine_start(number, share, serve, base) for number, share in enumerate(layout.shares, start=1))
        return cls(serve, fleet, layout, tuple(starts))


async def _run(made: _Made, show: Callable[[str], None]) -> int:
    serve = made.serve
    fleet = Fleet(made.starts, made.fleet.urls, show)
    reloading = asyncio.Lock()

    async def handle(request: dict[str, Any], answer: Callable[[dict[str, Any]], None], gone: asyncio.Event) -> None:
        def say(line: str) -> None:
            answer({"say": line})
            show(f"reload: {line}")

        if reloading.locked():
            answer({"say": "A reload is going on already.", "status": 1})
            return
        async with reloading:
            status = await _reload(fleet, made, say, gone, dry_run=bool(request.get("dry_run")))
            answer({"status": status})

    server = await control.listen(serve.port, handle)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, fleet.stop)
    scheme = "https" if (tls := _tls(serve)) else "http"
    show(f"Fleet at {scheme}://{reachable(serve.host)}:{serve.port}/v1, once the first engine serves.")
    try:
        status = await fleet.run(serve.host, serve.port, tls)
        show("Stopped.")
        return status
    finally:
        server.close()


async def _reload(
    fleet: Fleet, running: _Made, say: Callable[[str], None], gone: asyncio.Event, *, dry_run: bool
) -> int:
    """Give every engine the settings of today; return the exit status."""
    try:
        made = await asyncio.to_thread(_Made.today)
    except ServingError as error:
        say(f"Nothing was touched. {error}")
        return error.exit_status
    if made.layout.devices != running.layout.devices:
        say(
            f"Nothing was touched. The new settings mean {made.layout}, and {running.layout} run: such a change needs "
            "an end and a new start of the fleet."
        )
        return 1
    if (made.serve.host, made.serve.port) != (running.serve.host, running.serve.port):
        say("SERVE_HOST and SERVE_PORT are the fleet's own: they change when it is started anew.")
    if problem := await _refused(made.starts[0]):
        say(f"Nothing was touched. {problem}")
        return 1
    if dry_run:
        if len(fleet.backends) == 1:
            say(gap(fleet.engines[0]))
        say(f"Would restart {len(fleet.engines)} engines, one after the other.")
        return 0
    fleet.set_others(made.fleet.urls)
    rolling = Reload(fleet, made.starts, made.fleet.drain_timeout, say)
    task = asyncio.ensure_future(rolling.run())
    caller, end = asyncio.ensure_future(gone.wait()), asyncio.ensure_future(fleet.stopping.wait())
    try:
        await asyncio.wait([task, caller, end], return_when=asyncio.FIRST_COMPLETED)
        rolling.break_off()
        await asyncio.wait([task, end], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        say("The fleet is stopping.")
        return 1
    finally:
        for future in (task, caller, end):
            future.cancel()


async def _refused(start: Start) -> str | None:
    """Ask an engine's own command what it thinks of the settings, before any engine is touched."""
    lines: list[str] = []
    argv = (sys.executable, "-m", "serving", "serve", "--dry-run", "--env-file", "/dev/null")
    child = Child(argv, start.env, lines.append)
    await child.start()
    status = await child.wait()
    return None if status == 0 else next((line for line in reversed(lines) if line), f"status {status}")


def _tls(serve: ServeSettings) -> ssl.SSLContext | None:
    certificate, key = getattr(serve, "tls_cert", None), getattr(serve, "tls_key", None)
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise ConfigurationError(f"SERVE_TLS_CERT and SERVE_TLS_KEY cannot be used: {error.strerror}.") from error
    return context
