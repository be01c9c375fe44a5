"""Headers, certificates, an http client of one's own, and heads of responses as gateways send them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import pytest

from client import ConfigurationError, LLMClient, LLMConnectionError
from tests.client.conftest import HELLO, KEY
from tests.support.certificates import make_certificate
from tests.support.fake_openai import Exchange, FakeOpenAI, piece, reply

if TYPE_CHECKING:
    from pathlib import Path

Make = Callable[..., LLMClient]


async def use(client: LLMClient) -> None:
    """Make each kind of request."""
    assert await client.generate(HELLO) == "Hello"
    assert await client.models() == ["fake"]
    await client.wait_until_ready(5)


async def test_default_headers_go_with_every_request(server: FakeOpenAI, make: Make) -> None:
    await use(make(default_headers={"X-Team": "blue", "Authorization": "Custom abc"}))
    assert {exchange.path for exchange in server.all} == {"/v1/chat/completions", "/v1/models", "/health"}
    for exchange in server.all:
        assert (exchange.headers["x-team"], exchange.headers["authorization"]) == ("blue", "Custom abc")


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("X-Team: blue", {"x-team": "blue"}),
        ("X-Team: blue, X-Key: a,b", {"x-team": "blue", "x-key": "a,b"}),
        ("X-Team=blue,X-Key=c", {"x-team": "blue", "x-key": "c"}),
        ("X-Team: blue\nX-Url: http://x/?a=b", {"x-team": "blue", "x-url": "http://x/?a=b"}),
        ('{"X-Team": "blue", "X-N": 7}', {"x-team": "blue", "x-n": "7"}),
    ],
)
async def test_headers_from_the_environment(
    server: FakeOpenAI, make: Make, monkeypatch: pytest.MonkeyPatch, text: str, headers: dict[str, str]
) -> None:
    monkeypatch.setenv("LLM_HEADERS", text)
    await make().generate(HELLO)
    assert {name: server.requests[0].headers.get(name) for name in headers} == headers


@pytest.mark.parametrize("text", ["nonsense secret", "X Y: secret", '{"a": ', "[1]", '{"a b": "secret"}'])
def test_headers_that_make_no_sense_are_named_and_not_shown(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("LLM_HEADERS", text)
    with pytest.raises(ConfigurationError, match="LLM_HEADERS") as caught:
        LLMClient()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("headers", [{"a": "x\r\ny"}, {"a b": "x"}, {"a": 5}, {5: "a"}, "text", {"a": "é"}])
def test_default_headers_that_make_no_sense(headers: Any) -> None:
    with pytest.raises(ConfigurationError):
        LLMClient(default_headers=headers)


async def test_headers_are_secret(server: FakeOpenAI, make: Make) -> None:
    server.default = reply(500, {"error": "no such team: blue-and-secret"})
    client = make(default_headers={"X-Team": "blue-and-secret"})
    with pytest.raises(Exception, match=r"\*\*\*") as caught:
        await client.generate(HELLO)
    assert "blue-and" not in str(caught.value) + repr(client) + repr(client._settings)


async def test_headers_do_not_go_to_another_host(server: FakeOpenAI, make: Make) -> None:
    async with FakeOpenAI() as other:
        server.default = reply(500, "")
        client = make(default_headers={"X-Team": "blue"}, fallback_base_url=other.base_url)
        assert await client.generate(HELLO) == "Hello"
        assert "x-team" not in other.requests[0].headers


async def test_credentials_in_the_address(server: FakeOpenAI) -> None:
    url = f"http://user:p%40ss-word@127.0.0.1:{server.port}/v1"
    async with LLMClient(url, model="fake", max_retries=0) as client:
        await use(client)
        assert client.base_url == server.base_url
        server.default = reply(500, {"error": "bad p@ss-word"})
        with pytest.raises(Exception, match=r"\*\*\*") as caught:
            await client.generate(HELLO)
        shown = str(caught.value) + repr(client) + repr(client._settings) + str(client.client.base_url)
        assert "ss-word" not in shown
    assert {exchange.headers["authorization"] for exchange in server.all} == {"Basic dXNlcjpwQHNzLXdvcmQ="}


def test_credentials_and_a_key_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="LLM_API_KEY") as caught:
        LLMClient("http://user:secret@example.org/v1", KEY)
    assert "secret@" not in str(caught.value)


async def test_a_query_in_the_address_is_carried(server: FakeOpenAI, make: Make) -> None:
    query = "?api-version=2024-10-21&x=7"
    for path in ("/v1/models", "/health"):
        server.routes[path + query] = server.routes[path]
    answer = server.default
    server.routes["/v1/chat/completions" + query] = answer
    await use(make(base_url=server.base_url + query))
    assert {exchange.path.partition("?")[2] for exchange in server.all} == {query[1:]}


async def test_an_http_client_of_ones_own(server: FakeOpenAI, make: Make) -> None:
    seen: list[str] = []

    async def note(request: httpx2.Request) -> None:
        seen.append(request.url.path)

    async with openai.DefaultAsyncHttpxClient(event_hooks={"request": [note]}) as http:
        for _ in range(2):
            client = make(http_client=http)
            await use(client)
            await client.aclose()  # its maker's to close
        assert not http.is_closed
        assert len(http.event_hooks["response"]) == 1
    assert set(seen) == {"/v1/chat/completions", "/v1/models", "/health"}


@pytest.mark.parametrize("given", [{"http_client": object()}, {"http_client": httpx2.AsyncClient(), "verify": False}])
def test_an_http_client_that_is_none(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="http_client"):
        LLMClient(**given)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ca")
    make_certificate(folder)
    return folder


@pytest.fixture
async def secure(certificate: Path) -> AsyncIterator[FakeOpenAI]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    running = FakeOpenAI()
    running._server = await asyncio.start_server(running._serve, "127.0.0.1", 0, ssl=context)
    running.port = running._server.sockets[0].getsockname()[1]
    yield running
    await running.__aexit__()


async def test_certificates(secure: FakeOpenAI, certificate: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"https://127.0.0.1:{secure.port}/v1"
    with pytest.raises(LLMConnectionError, match="certificate"):
        await make(base_url=url).generate(HELLO)
    context = ssl.create_default_context(cafile=certificate / "cert.pem")
    for verify in (str(certificate / "cert.pem"), certificate / "cert.pem", context, False):
        await use(make(base_url=url, verify=verify))
    monkeypatch.setenv("LLM_CA_FILE", str(certificate / "cert.pem"))
    await use(make(base_url=url))


@pytest.mark.parametrize("name", ["missing.pem", "empty.pem", "text.pem"])
def test_a_file_that_holds_no_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "empty.pem").touch()
    (tmp_path / "text.pem").write_text("hello")
    monkeypatch.setenv("LLM_CA_FILE", str(tmp_path / name))
    with pytest.raises(ConfigurationError, match="LLM_CA_FILE"):
        LLMClient()
    monkeypatch.delenv("LLM_CA_FILE")
    with pytest.raises(ConfigurationError, match="verify"):
        LLMClient(verify=tmp_path / name)


def head(*lines: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", "content-type: text/event-stream", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    "lines",
    [
        [f"x-policy: {'a' * 60_000}"],  # bentoml/BentoML#4346
        [f"x-{number}: y" for number in range(500)],  # aio-libs/aiohttp#2304
        [f"set-cookie: {number}={'c' * 4000}" for number in range(40)],
    ],
)
async def test_large_heads(server: FakeOpenAI, make: Make, lines: list[str]) -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.raw(head("transfer-encoding: chunked", *lines))
        await exchange.event(piece("Hello", finish="stop"))
        await exchange.end()

    server.default = respond
    assert await make().generate(HELLO) == "Hello"


@pytest.mark.parametrize("cuts", [(), (5,), (17, 60), tuple(range(1, 130))])
@pytest.mark.parametrize("length", ["content-length: 5", "Content-Length: 100000"])
async def test_chunks_together_with_a_length(
    server: FakeOpenAI, make: Make, cuts: tuple[int, ...], length: str
) -> None:
    """timoklimmer/powerproxy-aoai#53"""

    async def respond(exchange: Exchange) -> None:
        sent = head("transfer-encoding: chunked", length)
        for start, stop in zip((0, *cuts), (*cuts, len(sent)), strict=True):
            await exchange.raw(sent[start:stop])
            await asyncio.sleep(0.001)
        await exchange.event(piece("Hello", finish="stop"))
        await exchange.event(b"[DONE]")
        await exchange.end()

    server.default = respond
    client = make()
    for _ in range(2):
        assert await client.generate(HELLO) == "Hello"


async def test_an_interim_head(server: FakeOpenAI, make: Make) -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(0.01)
        await exchange.raw(b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + head("transfer-encoding: chunked"))
        await exchange.event(piece("Hello", finish="stop"))
        await exchange.end()

    server.default = respond
    assert await make().generate(HELLO) == "Hello"


async def test_what_the_application_reads_through_the_openai_client_is_whole(server: FakeOpenAI, make: Make) -> None:
    content = b"x" * (5 * 2**20)
    server.routes["/v1/files/f/content"] = reply(200, content, "application/octet-stream")
    assert (await make().client.files.content("f")).content == content
