"""Errors in all the shapes that vLLM has had, and in the two that survive RunPod's SDK."""

import json

import pytest

from worker.job_error import JobError


@pytest.mark.parametrize(
    ("raw", "message", "kind", "code"),
    [
        (b'{"error": {"message": "m", "type": "T", "param": "p", "code": 422}}', "m", "T", 422),
        (b'{"error": {"message": "m", "type": "T", "param": null, "code": "invalid_api_key"}}', "m", "T", 400),
        (b'{"object": "error", "message": "m", "type": "T", "code": 404}', "m", "T", 404),
        (b'{"type": "error", "error": {"type": "invalid_request_error", "message": "m"}}', "m", "invalid_request_error", 400),
        (b'{"error": "Unauthorized"}', "Unauthorized", "BadRequestError", 400),
        (b'{"detail": "Not Found"}', "Not Found", "BadRequestError", 400),
        (b'{"detail": [{"loc": ["body"]}]}', '[{"loc": ["body"]}]', "BadRequestError", 400),
        (b"Internal Server Error", "Internal Server Error", "BadRequestError", 400),
        (b"", "no message", "BadRequestError", 400),
        (b"[1]", "[1]", "BadRequestError", 400),
    ],
)  # fmt: skip
def test_what_vllm_says_is_understood(raw, message, kind, code):
    error = JobError.from_vllm(400, raw)
    assert (error.message, error.kind, error.code) == (message, kind, code)


def test_the_output_is_text_that_the_sdk_leaves_as_it_is():
    output = JobError(404, 'no "such" model \u20ac', param="model").as_output()
    assert str(output["error"]) == output["error"]
    assert json.loads(output["error"]) == {
        "error": {"message": 'no "such" model \u20ac', "type": "NotFoundError", "param": "model", "code": 404}
    }


def test_the_event_is_what_the_routes_clients_look_for():
    error = JobError(503, "gone\nfor good")
    assert error.as_event("/v1/chat/completions").startswith('data: {"error": {"message": "gone\\nfor good"')
    event, data, *rest = error.as_event("/v1/messages").split("\n")
    assert event == "event: error"
    assert json.loads(data.removeprefix("data: "))["type"] == "error"
    assert rest == ["", ""]
