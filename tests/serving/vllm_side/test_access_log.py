"""The access log, as vLLM runs it: under a real server, with callers that lie and a disk that stumbles."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import json
import os
import time
from pathlib import Path

import aiohttp
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st

FOLDER = Path(__file__).parents[3] / "serving" / "vllm_side" / "middleware"
SECRET = "what nobody else may read"
KEYS = {
    "time", "method", "route", "status", "key", "tokens_in", "tokens_out", "pieces", "first_token", "seconds", "id",
    "whole",
}  # fmt: skip
USAGE = {"prompt_tokens": 31, "completion_tokens": 4, "total_tokens": 35}


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("access_log")


def event(**body):
    return b"data: " + json.dumps({"id": "chatcmpl-abc", **body}).encode() + b"\n\n"


async def application(scope, receive, send):
    """What vLLM answers: a stream, a whole completion, an error, or nothing to its end."""
    path = scope["path"]
    scope.setdefault("state", {})["key_name"] = "alice"
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    kind = b"text/event-stream; charset=utf-8" if "stream" in path else b"application/json"
    status = 404 if path == "/missing" else 200
    if path != "/left":
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})

    async def say(data, *, more=True):
        await send({"type": "http.response.body", "body": data, "more_body": more})

    if path == "/stream/lie":
        lie = '"usage": {"completion_tokens": 999} "id": "forged"'
        await say(event(choices=[{"delta": {"content": lie}}]))
        await say(event(choices=[], usage=USAGE))
        await say(b"data: [DONE]\n\n")
        await say(b"", more=False)
    elif path == "/stream":
        for _ in range(4):
            await say(event(choices=[{"delta": {"content": SECRET}}]))
            await asyncio.sleep(0.01)
        await say(b"data: [DONE]\n\n")
        await say(b"", more=False)
    elif path == "/stream/broken":
        await say(event(choices=[{"delta": {"content": SECRET}}]))
        raise RuntimeError("the engine died")
    elif path == "/left":
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 200, "headers": []})  # as vLLM does, with `null`
        await say(b"null", more=False)
    elif path == "/stream/long":
        for _ in range(100):
            await say(event(choices=[{"delta": {"content": SECRET}}]))
            await asyncio.sleep(0.01)
    else:
        answer = {"id": "chatcmpl-whole", "choices": [{"message": {"content": SECRET}}], "usage": USAGE}
        await say(json.dumps(answer).encode(), more=False)


class Log:
    def __init__(self, url, path, writer):
        self.url, self.path, self.writer = url, path, writer

    async def lines(self, count):
        async with asyncio.timeout(10):
            while not self.path.exists() or self.path.read_text().count("\n") < count:
                await asyncio.sleep(0.01)
        return [json.loads(line) for line in self.path.read_text().splitlines()]


@pytest.fixture
async def log(module, monkeypatch, tmp_path):
    path = tmp_path / "access.jsonl"
    monkeypatch.setenv("SERVE_ACCESS_LOG", str(path))
    logged = module.AccessLog(application)
    config = uvicorn.Config(logged, port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield Log(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", path, logged._writer)
    server.should_exit = True
    await task


async def post(log, path, **kwargs):
    async with aiohttp.ClientSession() as session, session.post(log.url + path, **kwargs) as answer:
        with contextlib.suppress(aiohttp.ClientError):
            return await answer.read()


async def test_a_line_says_all_of_a_request_but_its_text(log):
    await post(log, "/v1/chat/completions", json={"messages": SECRET})
    (line,) = await log.lines(1)
    assert line.keys() == KEYS
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/chat/completions", 200)
    assert (line["key"], line["tokens_in"], line["tokens_out"]) == ("alice", 31, 4)
    assert (line["id"], line["whole"], line["pieces"], line["first_token"]) == ("chatcmpl-whole", True, None, None)
    assert line["time"].endswith("+00:00")
    assert 0 <= line["seconds"] < 10
    assert SECRET not in log.path.read_text()
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_the_readme_shows_such_a_line():
    readme = (FOLDER.parents[1] / "README.md").read_text()
    [line] = [line for line in readme.splitlines() if line.startswith('{"time": ')]
    assert json.loads(line).keys() == KEYS


async def test_a_stream_is_counted_and_comes_as_it_was(log):
    body = await post(log, "/stream")
    (line,) = await log.lines(1)
    assert body.count(b"data: ") == 5
    assert (line["pieces"], line["tokens_out"], line["whole"], line["id"]) == (5, None, True, "chatcmpl-abc")
    assert line["first_token"] <= line["seconds"]
    assert SECRET not in log.path.read_text()


async def test_what_a_model_writes_is_not_taken_for_the_servers_count(log):
    await post(log, "/stream/lie")
    (line,) = await log.lines(1)
    assert (line["tokens_in"], line["tokens_out"], line["id"]) == (31, 4, "chatcmpl-abc")


async def test_an_answer_that_breaks_off_is_not_whole(log):
    await post(log, "/stream/broken")
    async with aiohttp.ClientSession() as session, session.post(log.url + "/stream/long") as answer:
        await answer.content.readany()
    with contextlib.suppress(TimeoutError):
        await post(log, "/left", timeout=aiohttp.ClientTimeout(0.2))
    lines = await log.lines(3)
    assert [line["whole"] for line in lines] == [False, False, False]


async def test_a_caller_cannot_write_a_line_of_his_own(log):
    forged = '/x%0a{"route": "/forged"}%0d%1b]52;c;aGk=%07'
    await post(log, forged, headers={"x-request-id": 'id"\\u000a{}', "Authorization": "Bearer sk-secret"})
    await post(log, "/missing?key=sk-secret")
    one, other = await log.lines(2)
    assert one["route"].startswith('/x\n{"route": "/forged"}')
    assert other["status"] == 404
    text = log.path.read_bytes()
    assert text.isascii()
    assert b"\x1b" not in text
    assert b"sk-secret" not in text


async def test_the_watchers_requests_are_left_out(log):
    for path in ("/health", "/metrics", "/ping", "/last"):
        await post(log, path)
    assert [line["route"] for line in await log.lines(1)] == ["/last"]


async def test_a_log_that_was_moved_away_begins_anew(log):
    await post(log, "/one")
    await log.lines(1)
    log.path.rename(log.path.with_suffix(".1"))
    await post(log, "/two")
    assert [line["route"] for line in await log.lines(1)] == ["/two"]


async def test_a_full_disk_costs_lines_and_says_how_many(log, monkeypatch):
    good = log.writer._path
    log.writer._path = "/dev/full"
    for _ in range(3):
        assert await post(log, "/stream") is not None
        log.writer.flush()
    log.writer._path = good
    await post(log, "/again")
    lost, line = await log.lines(2)
    assert lost["lost"] == 3
    assert line["route"] == "/again"


@settings(max_examples=60)
@given(st.lists(st.one_of(st.none(), st.integers(0, 60)), max_size=12), st.integers(1, 4))
def test_whatever_is_written_can_be_read_and_whatever_is_not_is_counted(tmp_path_factory, stumbles, at_a_time):
    """Each write goes through, or ends after so many bytes with a full disk."""
    path = tmp_path_factory.mktemp("log") / "access.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        module = importlib.import_module("access_log")
        writer = module.Writer(str(path))
        real = os.write
        room: list[int | None] = [None]

        def write(file, data):
            if room[0] is None:
                return real(file, data)
            part, room[0] = data[: room[0]], max(0, room[0] - len(data))
            if not part:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(file, part)

        patch.setattr(module.os, "write", write)
        sent = 0
        for stumble in [*stumbles, None]:
            room[0] = stumble
            lines = [{"time": "t", "number": sent + offset} for offset in range(at_a_time)]
            sent += at_a_time
            writer._append(lines)
    read, torn = [], 0
    for text in path.read_text().splitlines():
        try:
            read.append(json.loads(text))
        except ValueError:
            torn += bool(text)
    numbers = [line["number"] for line in read if "number" in line]
    lost = sum(line["lost"] for line in read if "lost" in line)
    assert numbers == sorted(set(numbers))
    assert len(numbers) + lost == sent
    assert torn <= len(stumbles)


def test_a_piece_costs_next_to_nothing(module, monkeypatch, tmp_path):
    """200,000 pieces through the middleware: the bound is a hundred times what it takes, for machines that are busy."""
    monkeypatch.setenv("SERVE_ACCESS_LOG", str(tmp_path / "log"))
    message = {"type": "http.response.body", "body": event(choices=[]), "more_body": True}

    async def app(scope, receive, send):
        for _ in range(200_000):
            await send(message)

    async def send(_message):
        pass

    began = time.process_time()
    asyncio.run(module.AccessLog(app)({"type": "http", "path": "/x", "headers": [], "method": "POST"}, None, send))
    spent = (time.process_time() - began) / 200_000
    print(f"{spent * 1e6:.2f} us a piece")
    assert spent < 100e-6
