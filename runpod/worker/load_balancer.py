"""A worker behind RunPod's load balancer: vLLM's own HTTP is the endpoint, a small server beside it answers /ping.

The balancer asks PORT_HEALTH: 204 keeps a worker out of the pool as one that loads, 200 puts it in, anything else takes
it out. vLLM cannot say 204, since it listens only when it is ready.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Literal

from aiohttp import web

from worker.startup import EngineStart
from worker.unhealthy import report_unhealthy
from worker.vllm_watch import VllmWatch

if TYPE_CHECKING:
    from pydantic import SecretStr

    from serving.engine.process import Engine
    from serving.settings import ServeSettings
    from worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

LOADING, READY, GONE = 204, 200, 503
# For the balancer to see the 503 that takes a dead worker out of the pool, before the process ends.
GONE_S = 5.0


class LoadBalancerWorker:
    """Answer /ping, start vLLM on all addresses, and end with it."""

    def __init__(self, settings: WorkerSettings, start: EngineStart, key: SecretStr | None = None) -> None:
        self._settings = settings
        self._start = start
        self._key = key
        self._status = LOADING
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Serve until SIGTERM (then 0, after the running requests) or vLLM's death (then 1). Raises EngineFailed."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        app = web.Application()
        app.router.add_get("/ping", self._ping)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "0.0.0.0", self._settings.port_health).start()  # noqa: S104 (RunPod's network)
            with self._start.engine() as engine:
                return await self._serve(engine)
        finally:
            await runner.cleanup()

    async def _ping(self, _request: web.Request) -> web.Response:
        return web.Response(status=self._status)

    async def _serve(self, engine: Engine) -> int:
        failure: str | None = None
        stop = asyncio.create_task(self._stop.wait())
        ready = asyncio.create_task(asyncio.to_thread(self._start.wait_ready))
        try:
            await asyncio.wait((stop, ready), return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                ready.result()
                self._status = READY
                failure = await self._failure(engine, stop)
        finally:
            self._status = GONE
            stop.cancel()
        if failure is not None:
            await asyncio.to_thread(report_unhealthy, failure, check="vllm")
            await asyncio.sleep(GONE_S)
            logger.error("%s.", failure)
            return 1
        logger.info("Told to stop: requests in flight may take %g s more", self._settings.drain_timeout)
        if ready.done():
            await asyncio.to_thread(engine.stop, self._settings.drain_timeout)
        else:
            engine.kill()
            await asyncio.wait((ready,))
            ready.exception()  # the start was given up
        return 0

    async def _failure(self, engine: Engine, stop: asyncio.Task[Literal[True]]) -> str | None:
        """Return why vLLM is of no use any more, or None once the worker is told to stop."""
        key = self._key.get_secret_value() if self._key else None
        async with VllmWatch(engine, key, stalled_after=self._settings.stall_timeout) as watch:
            failed = asyncio.create_task(watch.failed())
            await asyncio.wait((stop, failed), return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                failed.cancel()
                return None
            for line in watch.last_lines:
                logger.error("%s", line)
            return failed.result()


def run(worker: WorkerSettings, serve: ServeSettings, begin: float) -> int:
    """Run the worker in this mode; return its exit status.

    RunPod has checked the caller's key before a request gets here, so no other key is needed to listen on all
    addresses. One that is set is asked for all the same: there is one Authorization header, so it must then be the
    RunPod API key that the callers send.
    """
    serve = serve.model_copy(
        update={
            "host": "0.0.0.0",  # noqa: S104 (the balancer comes from outside)
            "port": worker.port,
            "allow_open": True,
            "tls_cert": None,  # HTTPS is the balancer's
            "tls_key": None,
            "shutdown_timeout": worker.drain_timeout,
        }
    )
    start = EngineStart(serve, worker.volume, begin)
    return asyncio.run(LoadBalancerWorker(worker, start, serve.api_key).run())
