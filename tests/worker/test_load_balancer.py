"""A worker behind RunPod's load balancer: what /ping says in each state, and who may ask vLLM."""

import asyncio

import aiohttp
import pytest

from tests.support.serving import free_port
from tests.support.worker import MODEL, Worker, eventually, is_gone, worker_environment


class Balanced:
    """A worker in load-balancer mode, and requests to its two ports."""

    def __init__(self, folder, **settings):
        self.port, self.health = free_port(), free_port()
        environment = worker_environment(
            folder, WORKER_MODE="load-balancer", PORT=str(self.port), PORT_HEALTH=str(self.health), **settings
        )
        self.worker = Worker(folder, environment)

    async def __aenter__(self):
        self.session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_):
        await self.session.close()
        self.worker.close()

    async def ping(self):
        """Return the status of /ping; None if nobody answers."""
        try:
            async with self.session.get(f"http://127.0.0.1:{self.health}/ping") as response:
                return response.status
        except aiohttp.ClientError:
            return None

    async def is_ready(self):
        """Whether the balancer would send requests."""
        return await self.ping() == 200

    async def ask(self, key=None, **fake):
        """Ask vLLM a question, as a caller would."""
        body = {"model": MODEL, "messages": [], "stream": True, "fake": fake}
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        async with self.session.post(url, json=body, headers=headers) as response:
            return response.status, await response.text()


async def test_ping_follows_the_worker_through_its_life(tmp_path):
    async with Balanced(tmp_path, FAKE_VLLM_LOAD="2") as balanced:
        await eventually(balanced.ping)
        assert await balanced.ping() == 204
        await eventually(balanced.is_ready)
        status, text = await balanced.ask()
        assert status == 200
        assert text.endswith("data: [DONE]\n\n")
        family = balanced.worker.family()
        balanced.worker.vllm().kill()
        await asyncio.sleep(1)
        assert await balanced.ping() == 503
        assert await balanced.worker.exit_status(within=10) == 1
        await eventually(lambda: all(map(is_gone, family)))


async def test_sigterm_takes_it_out_of_the_pool_and_lets_requests_finish(tmp_path):
    async with Balanced(tmp_path) as balanced:
        await eventually(balanced.is_ready)
        family = balanced.worker.family()
        answer = asyncio.create_task(balanced.ask(tokens=["x"] * 30, interval=0.1))
        await asyncio.sleep(0.5)
        balanced.worker.terminate()
        await asyncio.sleep(0.5)
        assert await balanced.ping() == 503
        _, text = await answer
        assert text.endswith("data: [DONE]\n\n")
        assert await balanced.worker.exit_status(within=10) == 0
        await eventually(lambda: all(map(is_gone, family)))


async def test_sigterm_while_it_loads(tmp_path):
    async with Balanced(tmp_path, FAKE_VLLM_LOAD="60") as balanced:
        await eventually(balanced.ping)
        await asyncio.sleep(1)
        family = balanced.worker.family()
        balanced.worker.terminate()
        assert await balanced.worker.exit_status(within=10) == 0
        await eventually(lambda: all(map(is_gone, family)))


async def test_a_key_that_is_set_is_asked_for(tmp_path):
    async with Balanced(tmp_path, SERVE_API_KEY="the-runpod-key") as balanced:
        await eventually(balanced.is_ready)
        assert (await balanced.ask())[0] == 401
        assert (await balanced.ask("the-runpod-key"))[0] == 200


async def test_vllm_that_does_not_start_is_a_failure(tmp_path):
    async with Balanced(tmp_path, FAKE_VLLM_FAIL="ValueError: nothing will do") as balanced:
        assert await balanced.worker.exit_status() == 1
        assert balanced.worker.log.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(("port", "health"), [("9000", "9000"), ("0", "9001"), ("9000", "x")])
async def test_ports_that_cannot_be_are_refused(tmp_path, port, health):
    environment = worker_environment(tmp_path, WORKER_MODE="load-balancer", PORT=port, PORT_HEALTH=health)
    worker = Worker(tmp_path, environment)
    try:
        assert await worker.exit_status() == 2
        assert "is not allowed: it must be" in worker.log
    finally:
        worker.close()
