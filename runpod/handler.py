"""The RunPod worker: starts vLLM, then answers the endpoint's jobs with it. The container's command.

Nothing here runs at import. `make runpod-local` starts it together with an emulated platform.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

if __name__ == "__main__":  # run by path: this folder comes first on the path, `serving` lies beside it
    sys.path.insert(1, str(Path(__file__).parents[1]))

from client.variables import EnvFileError, read_env_file
from serving.errors import EngineFailed, ServingError
from serving.settings import ServeSettings
from worker import official
from worker.queue_mode import has_job_source, serve_queue
from worker.settings import WorkerSettings
from worker.unhealthy import report_unhealthy


def main() -> int:
    """Run the worker; return its exit status."""
    begin = time.monotonic()
    logging.basicConfig(level=logging.INFO, format="%(levelname)-7s| %(message)s", stream=sys.stderr)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    _take_over_the_official_workers_variables()
    try:
        worker = WorkerSettings.load()
        serve = ServeSettings.load()
        if worker.mode == "load-balancer":
            from worker import load_balancer  # aiohttp's server: nothing that a queue worker needs

            return load_balancer.run(worker, serve, begin)
        if not has_job_source():
            print(
                "There are no jobs here: RUNPOD_WEBHOOK_GET_JOB is set on RunPod only. "
                "Try the worker with `make runpod-local`, or give it one job with --test_input '{\"input\": {...}}'.",
                file=sys.stderr,
            )
            return 2
        return serve_queue(worker, serve, begin)
    except ServingError as error:
        tail = error.tail if isinstance(error, EngineFailed) else ()
        print(*tail, f"error: {error}", sep="\n", file=sys.stderr)
        report_unhealthy(str(error))
        return error.exit_status


def _take_over_the_official_workers_variables() -> None:
    with contextlib.suppress(EnvFileError):  # which the settings say
        for sentence in official.take_over(os.environ, read_env_file(".env")):
            logging.getLogger(__name__).warning("%s", sentence)


def _leave(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
