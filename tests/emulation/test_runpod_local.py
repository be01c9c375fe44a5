"""`make runpod-local`: platform, worker and vLLM together, and all of them gone at the end."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest

from tests.support.fake_vllm import install
from tests.support.serving import clean_environment
from tests.support.worker import ROOT, is_gone


class RunpodLocal:
    """A running `make runpod-local`, with what it has printed."""

    def __init__(self, **settings):
        self.output = []
        self.process = subprocess.Popen(
            ["make", "runpod-local", "ARGS=--port 0"],
            cwd=ROOT,
            env=clean_environment(**settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        with self.process.stdout as stdout:
            for line in stdout:
                self.output.append(line.rstrip())

    def base_url(self, within):
        """Wait for the line that tells the client where to ask; return the address."""
        deadline = time.monotonic() + within
        while True:
            for line in list(self.output):
                if "export LLM_BASE_URL=" in line:
                    return line.partition("=")[2]
            assert self.process.poll() is None, "\n".join(self.output)
            assert time.monotonic() < deadline, "\n".join(self.output)
            time.sleep(0.1)

    def family(self):
        return [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]

    def stop(self, number):
        """Send a signal as the terminal would: to the whole group."""
        os.killpg(self.process.pid, number)
        return self.process.wait(30)

    def close(self):
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in reversed(self.family()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait(10)
        self.reader.join(5)


@contextlib.contextmanager
def runpod_local(**settings):
    running = RunpodLocal(**settings)
    try:
        yield running
    finally:
        running.close()


def ask(url):
    """Ask the question that the README asks, with the bundled client."""
    return subprocess.run(
        [sys.executable, "-m", "client", "What is the capital of France?"],
        cwd=ROOT,
        env=clean_environment(LLM_BASE_URL=url),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_answers_and_dies_whole(tmp_path, number):
    settings = {"SERVE_ENGINE": str(install(tmp_path)), "SERVE_GPUS": "1x NVIDIA H100 80GB HBM3", "HOME": str(tmp_path)}
    with runpod_local(**settings) as running:
        answer = ask(running.base_url(within=30))
        assert "Paris" in answer.stdout, answer.stderr
        family = running.family()
        assert len(family) >= 6  # make, the emulator, the worker, the SDK's ping process, the reaper, vLLM
        running.stop(number)
        deadline = time.monotonic() + 5
        while not all(map(is_gone, family)):
            assert time.monotonic() < deadline, [process for process in family if not is_gone(process)]
            time.sleep(0.1)


def test_a_taken_port_is_one_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        second = subprocess.run(
            [sys.executable, "runpod/emulator.py", "--port", port],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert second.returncode == 1
    assert f"Port {port} cannot be used" in second.stderr


@pytest.mark.engine
def test_the_real_engine_answers_through_worker_and_platform():
    with runpod_local() as running:
        answer = ask(running.base_url(within=600))
        assert "Paris" in answer.stdout, answer.stderr
