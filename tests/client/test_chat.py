"""`python -m client`: one question, and the chat."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from client.chat import main
from tests.support.fake_openai import FakeOpenAI, events, models, piece, reply, say
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Run = Callable[..., Awaitable[tuple[int, str, str]]]

ROOT = Path(__file__).parents[2]
LONG = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."


@pytest.fixture
def run(server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return what runs the program's main function on pipes; it returns the exit status, stdout and stderr."""

    async def run_main(*argv: str, stdin: str | bytes = b"", **settings: str) -> tuple[int, str, str]:
        for name, value in {"LLM_BASE_URL": server.base_url, "LLM_MODEL": "m", **settings}.items():
            monkeypatch.setenv(name, value)
        ours, theirs = os.pipe()
        os.write(theirs, stdin if isinstance(stdin, bytes) else stdin.encode())
        os.close(theirs)
        with os.fdopen(ours, encoding="utf-8") as pipe, monkeypatch.context() as patch:
            out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
            patch.setattr(sys, "stdin", pipe)
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            status = await asyncio.to_thread(main, list(argv))
        return status, out.buffer.getvalue().decode(), err.buffer.getvalue().decode()  # type: ignore[attr-defined]

    return run_main


def environment(server: FakeOpenAI) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LLM_BASE_URL": server.base_url,
        "LLM_MODEL": "m",
        "TERM": "xterm",
        "INPUTRC": os.devnull,
    }


def asked(server: FakeOpenAI) -> list[list[str]]:
    return [[message["content"] for message in exchange.json["messages"]] for exchange in server.requests]


# ---- one question


async def test_one_question(server: FakeOpenAI, run: Run) -> None:
    assert await run("What", "now?") == (0, "Hello\n", "")
    assert server.requests[0].json["messages"] == [{"role": "user", "content": "What now?"}]
    assert server.requests[0].json["model"] == "m"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["only"], "only"),
        (["one", "two"], "google/gemma-3-27b-it"),
        ([], "google/gemma-3-27b-it"),
    ],
)
async def test_the_servers_only_model_is_taken(server: FakeOpenAI, run: Run, names: list[str], expected: str) -> None:
    server.routes["/v1/models"] = models(*names)
    status, _, _ = await run("?", LLM_MODEL="")
    assert (status, server.requests[0].json["model"]) == (0, expected)


async def test_a_failure_is_one_line_and_status_1(server: FakeOpenAI, run: Run) -> None:
    server.script(reply(401, {"error": {"message": "no\nway"}}))
    status, out, err = await run("?")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "LLM_API_KEY" in err


async def test_a_bad_setting_is_one_line_and_status_2(run: Run) -> None:
    status, out, err = await run("?", LLM_TEMPERATURE="warm")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("LLM_TEMPERATURE='warm' is not allowed: it must be a number")


async def test_a_broken_answer_shows_what_came(server: FakeOpenAI, run: Run) -> None:
    server.script(events(piece("Hel"), done=False))
    status, out, err = await run("?")
    assert (status, out, err.count("\n")) == (1, "Hel\n", 1)


@pytest.mark.parametrize(("reason", "mark"), [("length", "[cut after 2 tokens"), ("content_filter", "[cut by")])
async def test_a_cut_answer_is_marked(server: FakeOpenAI, run: Run, reason: str, mark: str) -> None:
    server.script(say("Hel", "lo", finish=reason))
    status, out, err = await run("?")
    assert (status, out, err.count("\n")) == (0, "Hello\n", 1)
    assert err.startswith(mark)


async def test_an_answer_without_text_is_said(server: FakeOpenAI, run: Run) -> None:
    server.script(events(piece(reasoning_content="hm", finish="stop")))
    assert await run("?") == (0, "", "[the answer has no text]\n")


async def test_nothing_that_a_terminal_obeys_is_shown(server: FakeOpenAI, run: Run) -> None:
    server.script(say("\x1b", "]52;c;cm0=", "\x07red \x1b[3", "1mfish\x1b[0m\tand\u202e\r\n", "chips"))
    assert await run("?") == (0, "red fish\tand\nchips\n", "")
    server.script(reply(400, {"error": {"message": "no \x1b[31m\x1b]0;title\x07way \u202e"}}))
    status, _, err = await run("?")
    assert (status, err.isprintable()) == (1, False)  # by its newline alone
    assert err.strip().isprintable()


# ---- stdin beside a question


async def test_a_piped_file_goes_before_the_question(server: FakeOpenAI, run: Run, tmp_path: Path) -> None:
    await run("Sum", "it up", stdin="one\ntwo\n")
    await run("Empty?", stdin=" \n")
    with (tmp_path / "file").open("w+b") as file:  # a redirected file is no different from a pipe
        file.write("naïve 北\n".encode())
        file.seek(0)
        program = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "client",
            "File?",
            stdin=file,
            stdout=asyncio.subprocess.DEVNULL,
            env=environment(server),
        )
        assert await program.wait() == 0
    assert asked(server) == [["one\ntwo\n\nSum it up"], ["Empty?"], ["naïve 北\n\nFile?"]]


async def test_the_wait_for_a_pipe_is_said(server: FakeOpenAI) -> None:
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "client", "?"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(server),
    )
    assert program.stderr is not None
    assert b"Waiting for the rest of the question" in await program.stderr.readline()
    out, err = await program.communicate(b"late")
    assert (program.returncode, out, err) == (0, b"Hello\n", b"")
    assert asked(server) == [["late\n\n?"]]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("naïve €".encode(), "naïve €"),
        ("\ufeffnaïve €".encode(), "naïve €"),
        ("naïve €".encode("utf-16"), "naïve €"),
        ("naïve".encode("latin-1"), "naïve"),
        ("naïve €".encode("cp1252"), "naïve €"),
        (b"\x81\xff", "\x81ÿ"),
    ],
)
async def test_any_encoding_is_read(server: FakeOpenAI, run: Run, data: bytes, text: str) -> None:
    status, _, err = await run("?", stdin=data)
    assert (status, err) == (0, "")
    assert asked(server) == [[f"{text}\n\n?"]]


# ---- the chat


async def test_a_chat_through_a_pipe(server: FakeOpenAI, run: Run) -> None:
    lines = ["one", "two", "/system be brief", "three", "/model n", "four", "/reset", "five", "/model", "/history"]
    server.routes["/v1/models"] = models("m", "n")
    status, out, err = await run(stdin="\n".join([*lines, "exit", "six"]))
    assert status == 0
    assert out.startswith("Hello\n" * 5)
    assert "  m\n* n\n" in out
    assert "user: five\nassistant: Hello\n" in out
    assert err.count("first token") == 5
    assert "tokens/s" in err
    assert [exchange.json["model"] for exchange in server.requests] == ["m", "m", "m", "n", "n"]
    assert asked(server) == [
        ["one"],
        ["one", "Hello", "two"],
        ["be brief", "three"],
        ["be brief", "three", "Hello", "four"],
        ["be brief", "five"],
    ]


async def test_commands_that_change_nothing(server: FakeOpenAI, run: Run) -> None:
    server.routes["/v1/models"] = models("m", "n")
    lines = [
        "/system be brief",
        "one",
        "/system",
        "/model nope",
        "/nonsense",
        "two",
        "/etc/hosts is what?",
        "/system -",
    ]
    status, out, err = await run(stdin="\n".join([*lines, "three"]))
    assert status == 0
    assert "be brief\n" in out  # shown, and neither it nor the conversation is lost
    assert "has no model 'nope', so m stays. It has: m, n." in err
    assert "no command /nonsense" in err
    assert [exchange.json["model"] for exchange in server.requests] == ["m"] * 4
    assert asked(server)[1:] == [
        ["be brief", "one", "Hello", "two"],
        ["be brief", "one", "Hello", "two", "Hello", "/etc/hosts is what?"],
        ["three"],
    ]


async def test_a_model_is_taken_where_the_server_lists_none(server: FakeOpenAI, run: Run) -> None:
    server.routes["/v1/models"] = reply(404, {})
    status, _, _ = await run(stdin="/model other\none\n")
    assert (status, server.requests[0].json["model"]) == (0, "other")


async def test_a_failed_last_question_is_status_1(server: FakeOpenAI, run: Run) -> None:
    server.script(say("Hello"), reply(400, {}))
    status, out, err = await run(stdin="one\ntwo\n")
    assert (status, out) == (1, "Hello\n")
    assert "HTTP 400" in err


async def test_what_was_shown_of_a_broken_answer_is_remembered(server: FakeOpenAI, run: Run) -> None:
    server.script(events(piece("Once upon"), done=False), reply(500, {}), say("a time"))
    status, _, _ = await run(stdin="tell\nlost\ngo on\n", LLM_MAX_RETRIES="0")
    assert (status, asked(server)[-1]) == (0, ["tell", "Once upon", "go on"])


async def test_a_full_context_names_the_way_out(server: FakeOpenAI, run: Run) -> None:
    server.script(say("Hello"), *[reply(400, {"error": {"message": LONG, "code": 400}})] * 2)
    status, _, err = await run(stdin="one\ntwo\n/reset\nthree\n")
    assert (status, err.count("/reset forgets the conversation")) == (1, 1)  # with nothing to forget it is no help


# ---- in a terminal


async def test_ctrl_c_stops_the_answer_which_can_go_on(server: FakeOpenAI) -> None:
    server.script(say(*["la "] * 500, delay=0.02), say("second"))
    async with Terminal(environment(server), "-m", "client") as terminal:
        await terminal.until("> ")
        terminal.type("first\n")
        await terminal.until("la la la")
        terminal.interrupt()
        await terminal.until("(stopped)")
        await server.requests[0].wait_gone(1)
        terminal.type("go on\n")
        await terminal.until("second")
        await terminal.until("tokens/s")
        terminal.type("exit\n")
        assert await terminal.wait() == 0
    first, stopped, again = asked(server)[1]
    assert (first, again) == ("first", "go on")
    assert stopped.startswith("la la la")


@pytest.mark.parametrize("term", ["xterm", "dumb"])
async def test_a_paste_of_several_lines_is_one_question(server: FakeOpenAI, term: str) -> None:
    async with Terminal({**environment(server), "TERM": term}, "-m", "client") as terminal:
        await terminal.until("> ")
        terminal.type("\x1b[200~one\ntwo\n\nthree\x1b[201~\n" if term == "xterm" else "one\ntwo\n\nthree\n")
        await terminal.until("tokens/s")
        await terminal.until("> ")
        terminal.type("\x04")
        assert await terminal.wait() == 0
    assert asked(server) == [["one\ntwo\n\nthree"]]


async def test_ctrl_c_ends_a_single_question(server: FakeOpenAI) -> None:
    server.script(say(*["la "] * 500, delay=0.02))
    pipe = asyncio.subprocess.PIPE
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "client", "?"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        env=environment(server),
    )
    assert program.stdout is not None
    await program.stdout.readexactly(9)
    program.send_signal(2)
    _, err = await program.communicate()
    assert (program.returncode, err) == (130, b"")


async def test_the_answer_is_shown_as_it_arrives(server: FakeOpenAI) -> None:
    more = asyncio.Event()

    async def respond(exchange: object) -> None:
        await exchange.head()  # type: ignore[attr-defined]
        await exchange.event(piece("first "))  # type: ignore[attr-defined]
        await more.wait()
        await exchange.event(piece("second", "stop"))  # type: ignore[attr-defined]
        await exchange.end()  # type: ignore[attr-defined]

    server.script(respond)
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "client", "?"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env=environment(server),
    )
    assert program.stdout is not None
    assert await program.stdout.readexactly(6) == b"first "
    more.set()
    assert await program.stdout.read() == b"second\n"
    assert await program.wait() == 0


# ---- whatever the standard streams are


@pytest.mark.parametrize(
    ("command", "status", "out", "err"),
    [
        ('"$PY" -m client "$Q"', 0, "na?ve\n", ""),
        ('printf "na\\xefve\\n" | "$PY" -m client', 0, "na?ve\n", "tokens/s"),
        ('"$PY" -m client "$Q" <&- 2>&-', 0, "na?ve\n", ""),
        ('"$PY" -m client <&-', 0, "", ""),
        ('"$PY" -m client "$Q" >&-', 1, "", "stdout is closed"),
        ('"$PY" -m client "$Q" > /dev/full', 1, "", "cannot be written"),
        ('"$PY" -m client --help | true', 0, "", ""),
        ('cd "$TMPDIR"; PYTHONPATH="$ROOT" /usr/bin/python3 -S -m client "$Q"', 1, "", "make setup"),
    ],
)
async def test_no_stream_brings_a_traceback(
    server: FakeOpenAI, tmp_path: Path, command: str, status: int, out: str, err: str
) -> None:
    server.default = say("naïve")
    env = {
        **environment(server),
        "PY": sys.executable,
        "ROOT": str(ROOT),
        "TMPDIR": str(tmp_path),
        "Q": "na\udcefve",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }
    program = await asyncio.create_subprocess_exec(
        *("bash", "-c", command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
    )
    shown, complained = (data.decode() for data in await program.communicate())
    assert "Traceback" not in complained
    assert (program.returncode, shown) == (status, out)
    assert err in complained
    assert complained.count("\n") <= 1
    assert all(contents == ["naïve"] for contents in asked(server))
