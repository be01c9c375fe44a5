"""Run by the engine's own Python: let vLLM load the media guard, and have it fetch images from everywhere.

Prints one JSON object: what became of each URL, and which requests a server on loopback got. Usage:
fetch_in_engine.py FOLDER_OF_THE_MIDDLEWARE
"""

import asyncio
import base64
import io
import json
import os
import socket
import sys

sys.path.insert(0, sys.argv[1])
os.environ |= {"VLLM_MEDIA_CONNECTOR": "public", "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0"}
os.environ["VLLM_MEDIA_FETCH_MAX_RETRIES"] = "1"
for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[name]

import media_guard  # noqa: E402 (after the environment that vLLM reads)
import vllm.envs as envs  # noqa: E402
from aiohttp import web  # noqa: E402
from PIL import Image  # noqa: E402
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY  # noqa: E402

PUBLIC = "93.184.216.34"
asked: list[str] = []


def picture():
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(buffer, "PNG")
    return buffer.getvalue()


async def answer(request):
    asked.append(request.path)
    if request.path == "/redirect":
        raise web.HTTPFound("/picture")
    return web.Response(body=picture(), content_type="image/png")


class Names:
    """Stands for DNS: a name has its answers one after the other, and the last for ever."""

    def __init__(self, loop):
        self.real, self.answers = loop.getaddrinfo, {}

    async def __call__(self, host, port, **options):
        if host not in self.answers:
            return await self.real(host, port, **options)
        known = self.answers[host]
        addresses = known.pop(0) if len(known) > 1 else known[0]
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in addresses
        ]


async def fetch(connector, url):
    try:
        image = await asyncio.wait_for(connector.fetch_image_async(url), 20)
        return f"image {image.size[0]}x{image.size[1]}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


async def main():
    loop = asyncio.get_running_loop()
    names = loop.getaddrinfo = Names(loop)
    names.answers = {
        "inside.example": [["10.0.0.5"]],
        "both.example": [[PUBLIC, "127.0.0.1"]],
        "rebound.example": [[PUBLIC], ["127.0.0.1"]],
        "open.example": [["127.0.0.1"]],
    }
    application = web.Application()
    application.router.add_get("/{anything}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    connector = MEDIA_CONNECTOR_REGISTRY.load(envs.VLLM_MEDIA_CONNECTOR)
    found = {}
    for host in (
        "127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0", "0.0.0.0", "[::1]", "[::]",
        "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "10.0.0.5", "192.168.1.1", "172.16.0.1",
        "169.254.169.254", "100.64.0.1", "224.0.0.1", "[fe80::1]", "[fd00::1]", "user@127.0.0.1", "127.0.0.1.",
        "inside.example", "both.example", "rebound.example",
    ):  # fmt: skip
        found[host] = await fetch(connector, f"http://{host}:{port}/picture")
    for url in (
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        f"HTTP://127.0.0.1:{port}/picture",
        "http:///picture",
        "http://no.such.host.invalid/",
    ):
        found[url] = await fetch(connector, url)
    data = base64.b64encode(picture()).decode()
    found["data:"] = await fetch(connector, f"data:image/png;base64,{data}")
    before = list(asked)
    # From here on this machine is the internet, so that what is allowed can be seen to work.
    media_guard.is_public = lambda address: address == "127.0.0.1"
    found["open.example"] = await fetch(connector, f"http://open.example:{port}/picture")
    found["redirect"] = await fetch(connector, f"http://open.example:{port}/redirect")
    print(json.dumps({"found": found, "asked_before": before, "asked": asked}))
    await (await media_guard.connection.get_async_client()).close()
    await runner.cleanup()


asyncio.run(main())
