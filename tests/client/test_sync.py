"""The client without awaiting."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

import client.sync
from client import BadRequestError, ConfigurationError, LLMClient, LLMError, LLMTimeoutError, TextStream
from client.testing import FakeLLMClient
from tests.client.conftest import HELLO
from tests.support.fake_openai import FakeOpenAI, reply, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]


class Served:
    """The fake server in a thread, since the test itself does not await."""

    def __init__(self) -> None:
        self.fake = FakeOpenAI()
        self._runner = asyncio.Runner()
        self._up, self._end = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._runner.run(self._serve()))
        self._thread.start()
        self._up.wait()

    async def _serve(self) -> None:
        async with self.fake:
            self._up.set()
            await self._end.wait()

    def do(self, call: Callable[[], Any]) -> Any:
        """Return what `call` returns in the server's loop, awaited if it is a coroutine."""

        async def run() -> Any:
            done = call()
            return await done if inspect.isawaitable(done) else done

        return asyncio.run_coroutine_threadsafe(run(), self._runner.get_loop()).result(10)

    def close(self) -> None:
        self.do(self._end.set)
        self._thread.join()
        self._runner.close()


@pytest.fixture
def served() -> Iterator[Served]:
    running = Served()
    yield running
    running.close()


@pytest.fixture
def llm(served: Served) -> Iterator[client.sync.LLMClient]:
    with client.sync.LLMClient(served.fake.base_url, model="fake", max_retries=0) as made:
        yield made


def test_it_answers_as_the_asynchronous_one(served: Served, llm: client.sync.LLMClient) -> None:
    assert llm.generate(HELLO, max_tokens=5, top_k=3) == "Hello"
    assert list(llm.generate_streaming(HELLO)) == ["Hel", "lo"]
    assert llm.models() == ["fake"]
    llm.wait_until_ready(5)
    with llm.stream(HELLO) as stream:
        assert "".join(stream) == "Hello"
    assert (stream.text, stream.finish_reason, stream.request_id) == ("Hello", "stop", "req-1")
    assert stream.usage is not None
    assert (stream.usage.completion_tokens, stream.stats.tokens, stream.tool_calls) == (2, 2, [])
    sent = served.fake.requests[0].json
    assert (sent["max_tokens"], sent["top_k"], sent["messages"]) == (5, 3, HELLO)
    llm.model, llm.max_tokens = "another", 7
    llm.generate(HELLO)
    assert (served.fake.requests[-1].json["model"], served.fake.requests[-1].json["max_tokens"]) == ("another", 7)
    assert served.fake.connections == 1
    assert repr(llm) == f"LLMClient(base_url={served.fake.base_url!r}, model='another')"


def test_errors_are_the_same(served: Served, llm: client.sync.LLMClient) -> None:
    served.fake.script(reply(400, {"error": {"message": "no"}}))
    with pytest.raises(BadRequestError, match="no"):
        llm.generate(HELLO)
    served.fake.script(say("a", done=False, finish=None))
    with pytest.raises(LLMError) as caught:
        list(llm.generate_streaming(HELLO))
    assert caught.value.partial == "a"
    with pytest.raises(ConfigurationError, match="messages"):
        llm.stream(5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="max_tokens"):
        client.sync.LLMClient(max_tokens=-1)


@pytest.mark.parametrize("leave", ["break", "close", "drop"])
def test_leaving_a_stream_stops_the_server(served: Served, llm: client.sync.LLMClient, leave: str) -> None:
    served.fake.script(say(*["la "] * 10_000, delay=0.01))
    stream = llm.stream(HELLO)
    if leave == "break":
        for _ in llm.generate_streaming(HELLO):
            break
    else:
        next(stream)
        if leave == "close":
            stream.close()
            stream.close()
            assert list(stream) == []
        del stream
    served.do(lambda: served.fake.requests[0].wait_gone(5))


def test_threads_share_a_client(served: Served, llm: client.sync.LLMClient) -> None:
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(llm.generate(HELLO))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == ["Hello"] * 20


async def test_a_running_loop_does_not_matter() -> None:
    with client.sync.LLMClient.over(FakeLLMClient(["Hel", "lo"])) as llm:
        assert llm.generate(HELLO) == "Hello"


def test_structure_and_fakes() -> None:
    class City(BaseModel):
        name: str

    with client.sync.LLMClient.over(FakeLLMClient('{"name": "Paris"}')) as llm:
        assert llm.generate(HELLO, response_model=City) == City(name="Paris")


def test_a_closed_client_says_so(served: Served, llm: client.sync.LLMClient) -> None:
    served.fake.script(say(*["la "] * 10_000, delay=0.01))
    stream = llm.stream(HELLO)
    next(stream)
    failures: list[BaseException] = []

    def go_on() -> None:
        try:
            for _ in stream:
                pass
        except ConfigurationError as error:
            failures.append(error)

    reader = threading.Thread(target=go_on)
    reader.start()
    llm.close()
    reader.join(10)
    served.do(lambda: served.fake.requests[0].wait_gone(5))
    assert "closed" in str(failures[0])
    llm.close()
    stream.close()
    with pytest.raises(ConfigurationError, match="closed"):
        llm.generate(HELLO)
    assert not [thread for thread in threading.enumerate() if thread.name == "LLMClient"]


def test_a_client_that_is_dropped_ends_its_thread() -> None:
    llm = client.sync.LLMClient.over(FakeLLMClient())
    assert llm.generate(HELLO) == "Hello"
    [thread] = [thread for thread in threading.enumerate() if thread.name == "LLMClient"]
    del llm
    thread.join(10)
    assert not thread.is_alive()


def test_a_callback_that_waits_for_its_own_client_is_told(served: Served, llm: client.sync.LLMClient) -> None:
    told: list[str] = []

    def ask(line: str) -> None:
        try:
            llm.models()
        except ConfigurationError as error:
            told.append(str(error))

    served.fake.routes["/health"] = reply(503, "")
    with pytest.raises(LLMTimeoutError):
        llm.wait_until_ready(0.5, ask)
    assert "another thread" in told[0]


def test_a_forked_process_is_told_and_a_client_not_used_yet_goes_along(served: Served) -> None:
    code = f"""
import os, sys
from client import ConfigurationError
from client.sync import LLMClient
used, unused = (LLMClient({served.fake.base_url!r}, model="fake") for _ in range(2))
assert used.generate({HELLO!r}) == "Hello"
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
    assert used.generate({HELLO!r}) == "Hello"  # the parent's connections are whole
else:
    try:
        used.generate({HELLO!r})
    except ConfigurationError as error:
        assert "fork" in str(error)
    assert unused.generate({HELLO!r}) == "Hello"
    sys.exit()
print("done")
"""
    quiet = ["-W", "ignore:This process:DeprecationWarning"]  # Python's own word on forks beside threads, since 3.12
    command = [sys.executable, *quiet, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_the_interpreter_exits_with_a_client_in_use(served: Served) -> None:
    served.fake.default = say(*["la "] * 10_000, delay=0.01)
    code = f"""
from client.sync import LLMClient
client = LLMClient({served.fake.base_url!r}, model="fake")
stream = client.stream({HELLO!r})
print(next(stream), flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "la \n", "")
    served.do(lambda: served.fake.requests[0].wait_gone(5))


def test_ctrl_c_stops_the_server(served: Served) -> None:
    served.fake.default = say("la ", *["la "] * 10_000, delay=0.01)
    code = f"""
import os, signal, threading
from client.sync import LLMClient
client = LLMClient({served.fake.base_url!r}, model="fake")
for piece in client.generate_streaming({HELLO!r}):
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    break
try:
    client.generate({HELLO!r})
except KeyboardInterrupt:
    print("stopped", flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "stopped\n"
        served.do(lambda: served.fake.requests[1].wait_gone(5))  # while the program still lives
        program.communicate("\n", timeout=30)
    assert program.returncode == 0


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_parity() -> None:
    """Whatever the asynchronous ones have in public, these have, with the same parameters."""
    for asynchronous, synchronous in ((LLMClient, client.sync.LLMClient), (TextStream, client.sync.TextStream)):
        public = {name for name in dir(asynchronous) if not name.startswith("_")} - {"aclose"} | {"close"}
        assert public - set(dir(synchronous)) == set()
        for name in public - {"close"}:
            member = inspect.getattr_static(asynchronous, name)
            if inspect.isfunction(member):
                ours = inspect.signature(getattr(synchronous, name))
                assert ours == inspect.signature(member).replace(return_annotation=ours.return_annotation), name
    assert inspect.signature(client.sync.LLMClient) == inspect.signature(LLMClient)
