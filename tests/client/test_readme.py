"""The README's application, run as it stands there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from tests.support.fake_openai import FakeOpenAI, reply, say

ROOT = Path(__file__).parents[2]


def application() -> str:
    """Return the text of the README's FastAPI application."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "client" / "README.md").read_text(), re.DOTALL)
    [found] = [block for block in blocks if "FastAPI(" in block]
    return str(found)


async def test_the_application_streams_and_a_disconnect_ends_the_upstream_request(
    server: FakeOpenAI, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(application())
    env = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}",
        "LLM_BASE_URL": server.base_url,
        "LLM_MODEL": "m",
    }
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "uvicorn", "app:app", "--port", "0", stderr=asyncio.subprocess.PIPE, env=env, cwd=tmp_path
    )
    assert program.stderr is not None
    try:
        log = b""
        async with asyncio.timeout(30):
            while b"running on" not in log:
                log += await program.stderr.readline()
        port = int(log.rsplit(b":", 1)[1].split()[0])

        async def get(question: str, header: str = "") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"GET /ask?q={question} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n"
            writer.write(head.encode())
            return reader, writer

        reader, writer = await get("hi")
        answered = (await reader.read()).decode()
        writer.close()
        pieces = [json.loads(data) for data in re.findall(r"^data: (.*?)\r?$", answered, re.MULTILINE)]
        assert pieces == ["Hel", "lo", "stop"]
        assert answered.rstrip("\r\n0").endswith('event: end\ndata: "stop"')
        assert "id: asked" in answered

        reader, writer = await get("hi", "Last-Event-ID: asked\r\n")  # as an EventSource does when a stream has ended
        assert (await reader.read()).startswith(b"HTTP/1.1 204")  # which ends it
        writer.close()
        assert len(server.requests) == 1
        assert "text/event-stream" in answered
        assert server.requests[0].json["messages"] == [{"role": "user", "content": "hi"}]

        server.script(reply(400, {"error": {"message": "too long"}}))
        reader, writer = await get("hi")
        answered = (await reader.read()).decode()
        writer.close()
        assert "event: failed" in answered  # `error` is EventSource's own
        assert "event: error" not in answered
        assert "event: end\ndata: null" in answered
        assert "too long" in answered

        server.script(say(*["la "] * 1000, delay=0.02))
        reader, writer = await get("sing")
        await reader.readuntil(b"la ")
        writer.close()
        left = time.monotonic()
        assert await server.requests[-1].wait_gone() - left < 0.5
    finally:
        program.terminate()
        await program.communicate()


@pytest.mark.parametrize("page", ["README.md", "client/README.md"])
async def test_the_other_snippets_run_as_printed(server: FakeOpenAI, tmp_path: Path, page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    scripts = [block for block in blocks if "FastAPI(" not in block]
    assert scripts
    for script in scripts:
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", script),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "LLM_BASE_URL": server.base_url},
            cwd=tmp_path,
        )
        out, err = await program.communicate()
        assert (program.returncode, err) == (0, b"")
        assert out.startswith(b"Hello")
