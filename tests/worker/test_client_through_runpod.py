"""The bundled client through the platform's /openai path to the worker: what vLLM said is what the caller gets."""

from typing import Any

import aiohttp
import openai
import pytest

from client import LLMClient
from client.errors import (
    BadRequestError,
    LLMError,
    ModelNotFoundError,
    RateLimitedError,
    ServerError,
)
from tests.support.worker import MODEL

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
KINDS = {400: BadRequestError, 404: ModelNotFoundError, 429: RateLimitedError, 500: ServerError}


@pytest.fixture(params=[500, 200], ids=["failed-is-500", "failed-is-200"])
def url(served, request):
    """Yield the endpoint's OpenAI address, with either status that the gateway has been seen to give a failed job."""
    platform, _ = served
    platform.rules.failed_openai_status = request.param
    yield platform.openai_url
    platform.rules.failed_openai_status = 500


def scripted(url, **script):
    """Return a client whose requests script the stand-in vLLM's answers."""
    client = LLMClient(base_url=url, model=MODEL, max_retries=0)
    create = client.client.chat.completions.create

    async def create_scripted(**arguments):
        return await create(**arguments, extra_body={"fake": script})

    client.client.chat.completions.create = create_scripted
    return client


async def collect(stream, pieces=None):
    """Return the pieces of a stream; they stay in `pieces` when it breaks off."""
    pieces = [] if pieces is None else pieces
    async for piece in stream:
        pieces.append(piece)
    return pieces


async def test_both_ways_of_asking_get_the_answer(url):
    async with LLMClient(base_url=url, model=MODEL) as client:
        assert await client.generate(QUESTION) == "The capital of France is Paris."
        pieces = [piece async for piece in client.generate_streaming(QUESTION)]
    assert "".join(pieces) == "The capital of France is Paris."


@pytest.mark.parametrize("status", KINDS)
@pytest.mark.parametrize("stream", [False, True])
async def test_vllms_error_is_the_clients_exception(url, status, stream):
    message = "The model `x` does not exist." if status == 404 else "what vLLM had to say"
    async with scripted(url, status=status, message=message) as client:
        with pytest.raises(KINDS[status], match="does not exist" if status == 404 else message) as caught:
            await (collect(client.generate_streaming(QUESTION)) if stream else client.generate(QUESTION))
    assert caught.value.status == status


@pytest.mark.parametrize("accident", ["cut_after", "stop_after", "error_after"])
async def test_a_stream_that_breaks_off_is_an_error_and_not_an_end(url, accident):
    pieces = []
    async with scripted(url, **{accident: 3}, interval=0.05) as client:
        with pytest.raises(LLMError):
            await collect(client.generate_streaming(QUESTION), pieces)
    assert "".join(pieces) == "The capital of"


async def test_a_plain_openai_client_understands_the_error_event(url):
    async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            stream=True,
            extra_body={"fake": {"error_after": 2, "message": "what vLLM had to say", "interval": 0.1}},
        )
        async with stream:
            with pytest.raises(openai.APIError, match="what vLLM had to say"):
                await collect(stream)


async def test_runsync_shows_a_whole_answer_as_its_output(served):
    platform, _ = served
    async with aiohttp.ClientSession() as session:
        job = {"input": {"messages": QUESTION}}
        async with session.post(f"{platform.base_url}/runsync", json=job) as response:
            body = await response.json()
    assert body["status"] == "COMPLETED"
    assert body["output"][0]["choices"][0]["message"]["content"] == "The capital of France is Paris."
