"""Answers that must follow a JSON schema end by themselves, whatever the model would rather write."""

import asyncio
import json

import pytest

from client import LLMClient

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "country": {"type": "string", "maxLength": 20},
        "population": {"type": "integer", "minimum": 0, "maximum": 99_999_999},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 10}, "maxItems": 3, "uniqueItems": True},
    },
    "required": ["city", "country", "population", "tags"],
    "additionalProperties": False,
}
QUESTION = [{"role": "user", "content": "Describe Paris as JSON."}]
SEEDS = 24


@pytest.mark.slow
@pytest.mark.engine
async def test_no_seed_ends_in_white_space(gemma_270m):
    """`uniqueItems` is a limit that the backend cannot enforce, and no reason for a 400."""
    asked = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
    async with LLMClient(
        gemma_270m.base_url, gemma_270m.key or None, "tryout-gemma-3-270m", max_tokens=150, first_token_timeout=300
    ) as client:
        completions = await asyncio.gather(
            *(client.complete(QUESTION, temperature=1.0, seed=seed, response_format=asked) for seed in range(SEEDS))
        )
    assert [completion.finish_reason for completion in completions] == ["stop"] * SEEDS
    for completion in completions:
        assert sorted(json.loads(completion.text)) == ["city", "country", "population", "tags"]
