"""`python -m serving status` against servers that are well, ill, guarded, gone, or something else."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from serving.__main__ import main
from tests.support.serving import ROOT, clean_environment, free_port

METRICS = (ROOT / "tests" / "serving" / "engine" / "metrics-0.32.txt").read_text()
KEY = "a-key-for-status"


class StandIn(ThreadingHTTPServer):
    """A server that answers each path as `script` says, a status and a body; and all but /health with `key` alone."""

    script: dict[str, tuple[int, str]]
    url: str
    key: str | None = None


class Answers(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self):
        asked = self.headers.get("Authorization")
        status, body = self.server.script.get(self.path, (404, "Not Found"))
        if self.server.key and asked != f"Bearer {self.server.key}" and self.path != "/health":
            status, body = 401, "{}"
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_args):
        """Say nothing."""


@pytest.fixture
def server():
    made = StandIn(("127.0.0.1", 0), Answers)
    models = json.dumps({"data": [{"id": "gemma\x1b]0;owned\x07"}]})
    made.script = {"/health": (200, ""), "/metrics": (200, METRICS), "/v1/models": (200, models)}
    made.url = f"http://127.0.0.1:{made.server_port}"
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def status(monkeypatch, tmp_path, capsys):
    """Return what runs the command as a program would: with these settings and no others, in this process."""

    def run(*arguments, **settings):
        monkeypatch.chdir(tmp_path)
        for name in set(os.environ) - set(clean_environment()):
            monkeypatch.delenv(name)
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        code = main(["status", *arguments])
        out, err = capsys.readouterr()
        for name in settings:
            monkeypatch.delenv(name)
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return run


def test_a_healthy_server_is_said_in_figures_and_nothing_of_it_reaches_the_terminal_raw(server, status):
    done = status(SERVE_PORT=str(server.server_port))
    assert done.returncode == 0
    assert "healthy" in done.stdout
    assert "0 running, 0 waiting" in done.stdout
    assert "\x1b" not in done.stdout
    assert "gemma" in done.stdout


def test_the_same_for_a_program(server, status):
    done = status("--url", f"{server.url}/v1", "--json")
    found = json.loads(done.stdout)
    assert found["healthy"] is True
    assert found["running"] == 0
    assert found["tokens_out"] == 0
    assert found["first_token_median"] > 0


def test_a_key_is_sent_where_there_is_one_and_asked_for_where_there_is_none(server, status):
    server.key = KEY
    assert status("--url", server.url, SERVE_API_KEY=KEY).returncode == 0
    asked = status("--url", server.url)
    assert "set SERVE_API_KEY" in asked.stdout
    assert KEY not in status("--url", server.url, SERVE_API_KEY=KEY, SERVE_LOG_LEVEL="debug").stdout


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ({"/health": (503, "sick\x1b[2J")}, "/health answers 503: sick"),
        ({"/metrics": (500, "no")}, "/metrics answers 500"),
        ({"/metrics": (200, "x{ 1 2 3 4\n")}, "does not answer"),
        ({"/metrics": (404, "")}, "/metrics answers 404"),
        ({"/v1/models": (200, "<html>")}, "does not answer"),
    ],
)
def test_an_ill_server_is_a_sentence_and_a_status(server, script, said, status):
    server.script |= script
    done = status("--url", server.url)
    assert done.returncode == 1
    assert said in done.stdout
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout


def test_odd_lists_of_models_are_no_matter(server, status):
    for body in ("[]", '{"data": null}', '{"data": [1, {}]}'):
        server.script["/v1/models"] = (200, body)
        assert status("--url", server.url).returncode == 0


def test_nobody_there_is_said(status):
    done = status(SERVE_PORT=str(free_port()))
    assert done.returncode == 1
    assert "does not answer" in done.stdout


@pytest.mark.parametrize("url", ["ftp://x", "localhost:8000", "http://", "http://user:secret@host", "http://[::1"])
def test_an_address_that_makes_no_sense_is_refused(url, status):
    done = status("--url", url)
    assert done.returncode == 2
    assert "--url is not allowed" in done.stderr
    assert "secret" not in done.stderr
