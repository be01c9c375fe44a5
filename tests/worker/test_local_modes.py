"""The SDK's own ways of running a worker without a platform keep working."""

import asyncio
import json

import aiohttp
import pytest

from tests.support.serving import free_port
from tests.support.worker import Worker, worker_environment

QUESTION = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize(("source", "stream"), [("flag", False), ("file", True)])
async def test_one_job_of_this_machine_is_answered(tmp_path, source, stream):
    job = json.dumps({"input": QUESTION | {"stream": stream}})
    if source == "file":
        (tmp_path / "test_input.json").write_text(job)
    worker = Worker(tmp_path, worker_environment(tmp_path), ("--test_input", job) if source == "flag" else ())
    try:
        assert await worker.exit_status(30) == 0
        assert ("[DONE]" if stream else "The capital of France is Paris.") in worker.log
        assert "Unclosed" not in worker.log
    finally:
        worker.close()


async def test_a_bad_local_job_is_an_error(tmp_path):
    worker = Worker(tmp_path, worker_environment(tmp_path), ("--test_input", '{"input": {"route": "/x"}}'))
    try:
        assert await worker.exit_status(30) == 1
        assert "The route '/x' is not served" in worker.log
    finally:
        worker.close()


async def test_the_sdks_local_server_answers(tmp_path):
    port = free_port()
    worker = Worker(tmp_path, worker_environment(tmp_path), ("--rp_serve_api", "--rp_api_port", str(port)))
    try:
        async with aiohttp.ClientSession() as session:
            for _ in range(200):
                try:
                    async with session.post(f"http://localhost:{port}/runsync", json={"input": QUESTION}) as response:
                        body = await response.json()
                    break
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.1)
        assert body["output"][0]["choices"][0]["message"]["content"] == "The capital of France is Paris."
        worker.terminate()
        assert await worker.exit_status() == 0
    finally:
        worker.close()
