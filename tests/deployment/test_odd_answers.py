"""Whatever RunPod's API answers: a result, or one sentence; never a traceback, and nothing that a terminal obeys."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployment.answers import Answer, Nothing
from deployment.errors import DeployError
from deployment.graphql_api import CachedModel
from deployment.masking import Redactor
from deployment.rest_api import RunpodApi
from tests.deployment.fake_runpod import Failure

BODY = {"name": "gemma"}
CALLS = {
    "find": lambda api: api.find_endpoint("gemma"),
    "endpoint": lambda api: api.endpoint("ep1"),
    "create": lambda api: api.create_endpoint(BODY),
    "update": lambda api: api.update_endpoint("ep1", {"disk": 1}),
    "delete": lambda api: api.delete_endpoint("ep1"),
    "workers": lambda api: api.workers("ep1"),
    "releases": lambda api: api.releases("ep1"),
    "log": lambda api: list(api.worker_log("ep1", "w1", idle=0.5)),
    "gpus": lambda api: api.gpu_types(count=1, min_cuda="13.0"),
    "volume": lambda api: api.network_volume("vol1"),
    "cost": lambda api: api.cost("ep1", "2026-11-01T00:00:00Z"),
}
# Names that the kit looks for, so that what comes is nearly right.
NAMES = st.sampled_from(
    [
        "endpoints",
        "id",
        "name",
        "workers",
        "gpus",
        "releases",
        "diff",
        "field",
        "old",
        "price",
        "gpu",
        "env",
        "status",
        "requestUrls",
        "metadata",
        "totals",
        "totalAmount",
        "errors",
        "detail",
        "data",
        "myself",
        "scaling",
        "pool",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("\x1b]52;c;x\x07"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
DEEP = b"[" * 20_000 + b"]" * 20_000
ODD = [b"{}", b"null", b"[]", b"", b"<html>hello</html>", b'{"endpoints": null}', b"\xff\xfe", DEEP, b'{"a":' * 20_000]


class Odd:
    """A server that answers everything in one way."""

    def __init__(self):
        self.content, self.status, self.headers = b"{}", 200, {}
        odd = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(odd.status)
                for name, value in {"Content-Length": str(len(odd.content)), **odd.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(odd.content)

            do_GET = do_POST = do_PATCH = do_DELETE = answer

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v2"
        self.api = RunpodApi(self.url, "key", Redactor(), pause=0.0)


@pytest.fixture(scope="module")
def odd():
    server = Odd()
    with server.api:
        yield server
    server.server.shutdown()
    server.server.server_close()


def ask(odd, call):
    """Return what a call gives: a value, or the sentence of its error."""
    try:
        return (
            CachedModel(odd.url, "key", Redactor(), "do without").current("ep1")
            if call == "models"
            else CALLS[call](odd.api)
        )
    except DeployError as error:
        return str(error) or pytest.fail("an error without a sentence")


@settings(max_examples=120, deadline=None)
@given(
    call=st.sampled_from([*CALLS, "models"]),
    value=JSON,
    status=st.sampled_from([200, 200, 201, 302, 400, 404, 422, 500]),
)
def test_any_json_is_a_result_or_a_sentence(odd, call, value, status):
    odd.content, odd.status, odd.headers = json.dumps(value).encode(), status, {}
    ask(odd, call)


@pytest.mark.parametrize("call", [*CALLS, "models"])
@pytest.mark.parametrize("content", ODD, ids=lambda content: repr(content[:12]))
def test_what_is_no_answer_of_runpod_s_is_a_sentence(odd, call, content):
    odd.content, odd.status, odd.headers = content, 200, {}
    answer = ask(odd, call)

    if call not in ("delete", "log"):
        assert isinstance(answer, str), answer


def test_no_endpoints_is_not_read_out_of_an_answer_without_them(odd):
    # Else a second endpoint would be made.
    for content in (b"{}", b'{"endpoints": null}'):
        odd.content, odd.status, odd.headers = content, 200, {}
        assert "endpoints" in ask(odd, "find")


def test_a_redirect_is_said_and_not_followed(odd):
    odd.content, odd.status, odd.headers = b"", 302, {"Location": "http://127.0.0.1:9/"}
    assert "sends GET /v2/serverless on to another address (302): check RUNPOD_API_URL" in ask(odd, "find")


@pytest.mark.parametrize(
    "headers", [{"Retry-After": "²"}, {"Retry-After": "9" * 400}, {"Content-Encoding": "gzip"}], ids=str
)
def test_odd_headers_are_a_sentence(odd, headers):
    odd.content, odd.status, odd.headers = b"not gzip", 403, headers
    assert isinstance(ask(odd, "find"), str)


def test_an_odd_body_at_the_endpoint_s_own_address_is_unknown(odd):
    odd.status, odd.headers = 200, {}
    for odd.content in (DEEP, b"<html>", b"[]"):
        assert odd.api.call_url(Nothing, "GET", odd.url) is None
    assert odd.api.call_url(Answer, "GET", "http://[broken") is None


@pytest.mark.parametrize("command", ["plan", "up", "status", "logs", "rollback", "down"])
@pytest.mark.parametrize(
    "body", [b"{}", b'{"endpoints": [{}]}', b"<html>", DEEP], ids=["empty", "half", "html", "deep"]
)
def test_every_command_ends_with_a_sentence(deploy, runpod, command, body):
    runpod.failures.append(Failure("GET", "/serverless", status=200, body=body, times=99))
    ran = deploy(command)

    assert ran.status == 1, ran.text
    assert ran.err.startswith("deploy: GET /v2/serverless")
    assert ran.err.count("\n") == 1


def test_a_terminal_obeys_nothing_that_comes_from_outside(deploy, runpod):
    evil = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m\u202egnp"
    runpod.boot = runpod.boot[-1:]
    deploy("up", "--yes")
    runpod.log = [f"line {evil}"]
    runpod.only["image"] = f"image{evil}"
    runpod.failures.append(Failure("GET", "/billing", status=403, detail=evil))
    texts = [
        deploy(*words).text for words in (("status",), ("logs",), ("status", "--json"), ("logs", "--json"), ("plan",))
    ]
    runpod.failures.append(Failure("GET", "/serverless", status=422, errors=(evil,), detail=evil, times=9))
    texts.append(deploy("status").text)

    for text in texts:
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text), repr(text)


def test_a_key_that_hides_behind_control_characters_is_masked(deploy, runpod):
    deploy("up", "--yes", "--no-wait")
    key = deploy.env["RUNPOD_API_KEY"]
    runpod.failures.append(Failure("GET", "/serverless", status=422, detail=f"{key[:6]}\x1b[0m{key[6:]}"))
    ran = deploy("status")

    assert key[6:] not in ran.text
