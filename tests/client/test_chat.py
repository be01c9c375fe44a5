"""`python -m client`, as a program."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
from pathlib import Path

import pytest

from tests.support.fake_openai import FakeOpenAI, models, piece, reply, say

ROOT = Path(__file__).parents[2]


async def run(*argv: str, stdin: str = "", **settings: str) -> tuple[int | None, str, str]:
    """Run the program; return its exit status, what it printed, and what it printed on stderr."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **settings}
    pipe = asyncio.subprocess.PIPE
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "client", *argv, stdin=pipe, stdout=pipe, stderr=pipe, env=env
    )
    out, err = await program.communicate(stdin.encode())
    return program.returncode, out.decode(), err.decode()


async def test_one_question(server: FakeOpenAI) -> None:
    assert await run("What", "now?", LLM_BASE_URL=server.base_url, LLM_MODEL="m") == (0, "Hello\n", "")
    assert server.requests[0].json["messages"] == [{"role": "user", "content": "What now?"}]
    assert server.requests[0].json["model"] == "m"


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        (["only"], "only"),
        (["one", "two"], "google/gemma-3-27b-it"),
        ([], "google/gemma-3-27b-it"),
    ],
)
async def test_the_servers_only_model_is_taken(server: FakeOpenAI, names: list[str], asked: str) -> None:
    server.routes["/v1/models"] = models(*names)
    status, _, _ = await run("?", LLM_BASE_URL=server.base_url)
    assert (status, server.requests[0].json["model"]) == (0, asked)


async def test_a_failure_is_one_line_and_status_1(server: FakeOpenAI) -> None:
    server.script(reply(401, {"error": {"message": "no\nway"}}))
    status, out, err = await run("?", LLM_BASE_URL=server.base_url, LLM_MODEL="m")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "LLM_API_KEY" in err


async def test_a_bad_setting_is_one_line_and_status_2() -> None:
    status, out, err = await run("?", LLM_MAX_TOKENS="many")
    assert (status, out, err) == (
        2,
        "",
        "LLM_MAX_TOKENS='many' is not allowed: it must be a number of tokens, 0 or more.\n",
    )


async def test_a_chat_through_a_pipe(server: FakeOpenAI) -> None:
    lines = ["one", "two", "/system be brief", "three", "/model other", "four", "/reset", "five", "/model", "/history"]
    server.routes["/v1/models"] = models("m", "n")
    status, out, err = await run(stdin="\n".join([*lines, "/quit", "six"]), LLM_BASE_URL=server.base_url, LLM_MODEL="m")
    assert status == 0
    assert out.startswith("Hello\n" * 5)
    assert "user: five\nassistant: Hello\n" in out
    assert err.count("first token") == 5
    assert "tokens/s" in err
    asked = [
        (body["model"], [message["content"] for message in body["messages"]])
        for body in (exchange.json for exchange in server.requests)
    ]
    assert asked == [
        ("m", ["one"]),
        ("m", ["one", "Hello", "two"]),
        ("m", ["be brief", "three"]),
        ("other", ["be brief", "three", "Hello", "four"]),
        ("other", ["be brief", "five"]),
    ]


async def test_a_failed_last_question_is_status_1(server: FakeOpenAI) -> None:
    server.script(say("Hello"), reply(400, {}))
    status, out, err = await run(stdin="one\ntwo\n", LLM_BASE_URL=server.base_url, LLM_MODEL="m")
    assert (status, out) == (1, "Hello\n")
    assert "HTTP 400" in err


async def test_ctrl_c_stops_the_answer_and_not_the_program(server: FakeOpenAI) -> None:
    server.script(say(*["la "] * 500, delay=0.02), say("second"))
    ours, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LLM_BASE_URL": server.base_url, "LLM_MODEL": "m"}
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "client", stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
    )
    os.close(theirs)
    shown = ""

    async def until(text: str) -> None:
        nonlocal shown
        async with asyncio.timeout(20):
            while text not in shown:
                shown += (await asyncio.to_thread(os.read, ours, 1024)).decode()

    try:
        await until("> ")
        os.write(ours, b"first\n")
        await until("la la la")
        program.send_signal(signal.SIGINT)
        await until("(stopped)")
        await server.requests[0].wait_gone(1)
        os.write(ours, b"again\n")
        await until("second")
        await until("tokens/s")
        os.write(ours, b"/quit\n")
        async with asyncio.timeout(10):
            assert await program.wait() == 0
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
        os.close(ours)
    assert server.requests[1].json["messages"] == [{"role": "user", "content": "again"}]


async def test_ctrl_c_ends_a_single_question(server: FakeOpenAI) -> None:
    server.script(say(*["la "] * 500, delay=0.02))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LLM_BASE_URL": server.base_url, "LLM_MODEL": "m"}
    pipe = asyncio.subprocess.PIPE
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "client", "?", stdout=pipe, stderr=pipe, env=env
    )
    assert program.stdout is not None
    await program.stdout.readexactly(9)
    program.send_signal(signal.SIGINT)
    _, err = await program.communicate()
    assert (program.returncode, err) == (130, b"")


async def test_the_answer_is_shown_as_it_arrives(server: FakeOpenAI) -> None:
    import time

    server.script(say("first ", "second", delay=0.3))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LLM_BASE_URL": server.base_url, "LLM_MODEL": "m"}
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "client", "?", stdout=asyncio.subprocess.PIPE, env=env
    )
    assert program.stdout is not None
    assert await program.stdout.readexactly(6) == b"first "
    first = time.monotonic()
    assert await program.stdout.read() == b"second\n"
    assert time.monotonic() - first > 0.1
    assert await program.wait() == 0


async def test_a_broken_answer_shows_what_came(server: FakeOpenAI) -> None:
    from tests.support.fake_openai import events

    server.script(events(piece("Hel"), done=False))
    status, out, err = await run("?", LLM_BASE_URL=server.base_url, LLM_MODEL="m")
    assert (status, out, err.count("\n")) == (1, "Hel\n", 1)
