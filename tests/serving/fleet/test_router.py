"""The exported router over two servers that are restarted by hand, one after the other, under streams without pause."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.serving.fleet.steady import Steady
from tests.support.fake_vllm import install
from tests.support.serving import ROOT, clean_environment, free_port

MODEL = "a-model"
TOKENS = [f" word{number}" for number in range(12)]


class Server:
    """A stand-in engine, as if on a machine of its own."""

    def __init__(self, program: Path, load: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._argv = [str(program), "serve", MODEL, "--port", str(self.port), "--shutdown-timeout", "60"]
        self._env = clean_environment(FAKE_VLLM_LOAD=load)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._argv, env=self._env, stdout=subprocess.DEVNULL)

    async def restart(self) -> None:
        """Restart it by hand: SIGTERM, which lets running requests finish, and a new start."""
        self.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self.process.wait)
        self.start()
        await answers(f"{self.url}/health")


async def answers(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("load", ["1", pytest.param("75", marks=pytest.mark.slow)])
async def test_the_exported_router_survives_a_restart_by_hand(tmp_path, load):
    program = install(tmp_path)
    servers = [Server(program, "0") for _ in range(2)]
    export = [sys.executable, "-m", "serving", "export", "router", "--output", str(tmp_path / "router.sh")]
    urls = [word for server in servers for word in ("--url", server.url)]
    subprocess.run([*export, *urls], cwd=ROOT, env=clean_environment(), check=True)
    script = (tmp_path / "router.sh").read_text()
    named = [line for line in script.splitlines() if "vllm-router" in line and not line.startswith("#")]
    assert len(named) == 1
    words = shlex.split(named[0])
    port, metrics = free_port(), free_port()
    words[words.index("--port") + 1] = str(port)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    router = subprocess.Popen(
        [*words[1:], "--prometheus-port", str(metrics), "--log-level", "error"],
        env={**os.environ, "PATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for server in servers:
            server._env["FAKE_VLLM_LOAD"] = load
            await answers(f"{server.url}/health")
        await answers(f"http://127.0.0.1:{port}/health")
        body = {"model": MODEL, "fake": {"tokens": TOKENS, "interval": 0.05}}
        streams = Steady(f"http://127.0.0.1:{port}/v1/chat/completions", body, len(TOKENS))
        async with streams.streams(16):
            for server in servers:
                await streams.more(32)
                await server.restart()
                await answers(f"http://127.0.0.1:{port}/health")  # a person would look, too
            await streams.more(32)
        assert streams.failures == []
    finally:
        router.kill()
        router.wait()
        for server in servers:
            server.process.kill()
            server.process.wait()
