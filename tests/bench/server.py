"""The server of the benchmarks: prints its port, then streams tokens, each in a write of its own.

The model's name says how: `TOKENS@MS` is a token every MS milliseconds, MS 0 as fast as the socket takes them.
"""

from __future__ import annotations

import asyncio
import json
import re

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
LENGTH = re.compile(rb"(?i)content-length: *(\d+)")


def chunk(choice: dict[str, object]) -> bytes:
    """Return one event as vLLM sends it, as one chunk of the body."""
    body = {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "google/gemma-3-27b-it",
        "choices": [choice],
    }
    return framed(b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n")


def framed(data: bytes) -> bytes:
    """Return one chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


TOKEN = chunk({"index": 0, "delta": {"content": " token"}, "logprobs": None, "finish_reason": None})
LAST = chunk({"index": 0, "delta": {"content": ""}, "logprobs": None, "finish_reason": "stop"}) + framed(
    b"data: [DONE]\n\n"
)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    loop = asyncio.get_running_loop()
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            found = LENGTH.search(head)
            body = await reader.readexactly(int(found[1]) if found else 0)
            tokens, _, pace = json.loads(body)["model"].partition("@")
            writer.write(HEAD)
            due = loop.time()
            for _ in range(int(tokens)):
                due += float(pace) / 1000
                await asyncio.sleep(max(due - loop.time(), 0))
                writer.write(TOKEN)
                await writer.drain()
            writer.write(LAST + b"0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
