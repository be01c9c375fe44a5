"""`python -m serving serve` with a stand-in `vllm` that stumbles: it hangs, floods its log, lives on a full disk."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from serving.checks.settings import log_file
from serving.engine.certificate import refuse_bad_pair
from serving.errors import ConfigurationError
from serving.settings import ServeSettings
from tests.support import fake_vllm
from tests.support.certificates import make_certificate
from tests.support.serving import ROOT, Serve, clean_environment, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERVE = (sys.executable, "-m", "serving", "serve")
MODEL = "google/gemma-3-27b-it"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Serve]]:
    servers = []
    settings = {"SERVE_ENGINE": str(fake_vllm.install(tmp_path)), "SERVE_GPUS": "1x NVIDIA H100 80GB HBM3"}

    def begin(**more: str) -> Serve:
        servers.append(Serve(settings | more, command=SERVE))
        return servers[-1]

    yield begin
    for server in servers:
        server.close()


def chat(server: Serve, **script: Any) -> str:
    """Ask a question that scripts its own answer; return that."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "stream": True, "fake": script}
    request = urllib.request.Request(
        f"{server.base_url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        events = [line[6:] for line in response.read().decode().splitlines() if line.startswith("data: {")]
    return "".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in events)


def stop(server: Serve) -> int:
    server.supervisor.send_signal(signal.SIGTERM)
    return server.wait()


def test_a_long_prefill_is_left_alone_and_a_core_that_is_stopped_comes_back(start: Callable[..., Serve]) -> None:
    server = start(SERVE_STALL_TIMEOUT="3", FAKE_VLLM_CORE="1")
    server.wait_for("  ask ")
    first = server.engine()
    assert chat(server, prefill=8.0, tokens=["a", "b"]) == "ab"
    assert server.engine() == first
    [core] = first.children()
    core.send_signal(signal.SIGSTOP)
    server.wait_for("its engine core is stopped", within=60)
    server.wait_for("Starting it again in 1 s (1 of 5).")
    server.wait_for("  ask ", times=2)
    assert chat(server, tokens=["c"]) == "c"
    assert not [process for process in (first, core) if process.is_running()]
    assert "vLLM died. It hung: vLLM has computed no token for" in "\n".join(server.output)
    assert stop(server) == 0


def test_a_vllm_that_is_stopped_comes_back_and_is_no_riddle(start: Callable[..., Serve]) -> None:
    server = start(SERVE_STALL_TIMEOUT="3")
    server.wait_for("  ask ")
    frozen = server.engine()
    frozen.send_signal(signal.SIGSTOP)
    server.wait_for("vLLM hangs, and is ended: vLLM is running and has not answered /health for", within=60)
    server.wait_for("  ask ", times=2)
    assert not frozen.is_running()
    assert stop(server) == 0
    said = "\n".join(server.output)
    assert "Traceback" not in said
    assert "SIGKILL" not in said  # it was ours


def test_the_end_of_a_hung_vllm_is_not_waited_for(start: Callable[..., Serve]) -> None:
    """A stop while vLLM is frozen: it cannot drain, and the second signal ends it."""
    server = start()
    server.wait_for("  ask ")
    frozen = server.engine()
    frozen.send_signal(signal.SIGSTOP)
    server.supervisor.send_signal(signal.SIGTERM)
    server.wait_for("Stopping: running requests have 30 s to finish; once more stops at once.")
    server.supervisor.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert not frozen.is_running()


def test_a_second_serve_says_that_the_first_is_up(start: Callable[..., Serve]) -> None:
    first = start(FAKE_VLLM_LOAD="4")
    first.wait_for("loading weights")
    for state in ("starting", "up"):
        second = Serve(first.settings, command=SERVE, port=first.port)
        assert second.wait() == 1
        assert second.output[-1] == (
            f"error: Port {first.port} is taken by another `make serve` (pid {first.supervisor.pid}), which is {state} "
            f"at {first.base_url}: use that, stop it, or set SERVE_PORT to another port."
        )
        first.wait_for("  ask ")


HOSTILE = (
    b"ERROR \x1b]52;c;aGVsbG8=\x07clipboard\x1b[2J \x9b31m\n"
    b"ERROR bytes \xff\xfe\x00 no text\n"
    b"ERROR \xe2\x80\xaeright to left\n"
    b"ERROR the last of it\n"
)


@pytest.fixture
def flood(tmp_path: Path) -> Path:
    """A log that tries the terminal, and ends in one line of 100 MB."""
    path = tmp_path / "flood"
    path.write_bytes(HOSTILE)
    with path.open("ab") as file:
        file.truncate(100 << 20)  # a line of zero bytes
        file.seek(0, os.SEEK_END)
        file.write(b"\nERROR after the flood\n")
    return path


def test_no_log_harms_the_terminal_or_the_memory(start: Callable[..., Serve], flood: Path, tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    server = start(FAKE_VLLM_LOG=str(flood), SERVE_LOG_FILE=str(log))
    server.wait_for("  ask ")
    assert most_memory(server) < 200_000
    assert stop(server) == 0
    said = "\n".join(server.output)
    assert "ERROR clipboard" in said
    assert "ERROR bytes \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} no text" in said
    assert "ERROR right to left" in said
    assert "ERROR after the flood" in said
    for text in (said, log.read_text()):
        assert not {char for char in text if char in "\x1b\x07\x00\x9b\u202e"}
    assert log.stat().st_size < 1 << 20


def most_memory(server: Serve) -> int:
    """Return the most memory that the supervisor has had, in KiB."""
    lines = Path(f"/proc/{server.supervisor.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_a_full_disk_under_the_log_costs_the_log_alone(start: Callable[..., Serve]) -> None:
    server = start(SERVE_LOG_FILE="/dev/full")
    server.wait_for("  ask ")
    assert chat(server, tokens=["on"]) == "on"
    os.kill(server.engine().pid, signal.SIGKILL)
    server.wait_for("vLLM was killed (SIGKILL)")  # it is diagnosed all the same
    server.wait_for("  ask ", times=2)
    assert stop(server) == 0
    [told] = [line for line in server.output if "SERVE_LOG_FILE" in line]
    assert "SERVE_LOG_FILE='/dev/full' cannot be written (No space left on device)" in told
    assert "Traceback" not in "\n".join(server.output)


@pytest.mark.parametrize("place", ["", "missing/vllm.log"], ids=["a folder", "in no folder"])
def test_a_log_file_that_cannot_be_is_refused(start: Callable[..., Serve], tmp_path: Path, place: str) -> None:
    server = start(SERVE_LOG_FILE=str(tmp_path / place))
    assert server.wait() == 2
    assert f"error: SERVE_LOG_FILE='{tmp_path / place}' cannot be written" in server.output[-1]
    there: dict[str, Any] = {"log_file": tmp_path / place}
    [check] = log_file(ServeSettings(**there))  # what `doctor` says
    assert f"error: {check.detail}" == server.output[-1]
    here: dict[str, Any] = {"log_file": tmp_path / "vllm.log"}
    assert next(log_file(ServeSettings(**here))).status == "ok"
    assert not (tmp_path / "vllm.log").exists()


def test_readers_that_leave_do_not_take_vllm_along(tmp_path: Path) -> None:
    """`make serve | head -1`, and 2>&1: what is printed then goes nowhere."""
    port = free_port()
    settings = {"SERVE_ENGINE": str(fake_vllm.install(tmp_path)), "SERVE_GPUS": "1x NVIDIA H100 80GB HBM3"}
    environment = clean_environment(SERVE_PORT=str(port), SERVE_LOG_LEVEL="debug", **settings)
    process = subprocess.Popen(
        SERVE, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        assert process.stdout is not None
        process.stdout.close()  # before a line is written
        while True:
            assert process.poll() is None
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_a_stream_that_runs_ends_whole_when_it_is_told_to_stop(start: Callable[..., Serve]) -> None:
    server = start()
    server.wait_for("  ask ")
    family = server.descendants()
    answers: list[str] = []
    asking = threading.Thread(
        target=lambda: answers.append(chat(server, tokens=["x"] * 30, interval=0.1)), name="asking"
    )
    asking.start()
    while json.load(urllib.request.urlopen(f"http://127.0.0.1:{server.port}/fake", timeout=30))["tokens"] < 3:
        assert asking.is_alive()
    assert stop(server) == 0
    asking.join()
    assert answers == ["x" * 30]
    assert not [process for process in family if process.is_running()]
    assert server.output[-1] == "Stopped."


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def test_https_is_probed_guarded_asked_and_told(start: Callable[..., Serve], pair: tuple[Path, Path]) -> None:
    cert, key = pair
    server = start(SERVE_TLS_CERT=str(cert), SERVE_TLS_KEY=str(key), SERVE_API_KEY="hush-hush")
    server.wait_for("  ask ")
    said = "\n".join(server.output)
    assert f" s: https://127.0.0.1:{server.port}/v1\n" in said
    assert "context  2,048 tokens" in said
    assert f"LLM_CA_FILE={cert}" in said
    command = next(line.split(None, 1)[1] for line in server.output if line.startswith("  ask "))
    settings = {"SERVE_API_KEY": "hush-hush", "SERVE_PORT": str(server.port), "SERVE_TLS_CERT": str(cert)}
    environment = clean_environment(**settings)
    asked = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "Paris" in asked.stdout, asked.stderr
    status = subprocess.run(
        [sys.executable, "-m", "serving", "status", "--json"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert json.loads(status.stdout)["healthy"], status.stdout + status.stderr
    assert json.loads(status.stdout)["url"] == f"https://127.0.0.1:{server.port}"
    assert stop(server) == 0


def test_the_question_goes_to_a_name_of_the_certificate(tmp_path: Path, start: Callable[..., Serve]) -> None:
    cert, key = make_certificate(tmp_path, "DNS:*.example.org,DNS:localhost")
    server = start(SERVE_TLS_CERT=str(cert), SERVE_TLS_KEY=str(key))
    server.wait_for("  ask ")
    assert f" s: https://localhost:{server.port}/v1" in "\n".join(server.output)


def locked(cert: Path, key: Path, folder: Path) -> tuple[Path, Path]:
    """Return the pair with its key behind a passphrase."""
    secret = folder / "locked.pem"
    subprocess.run(
        ["openssl", "pkey", "-in", str(key), "-out", str(secret), "-aes256", "-passout", "pass:hush"], check=True
    )
    return cert, secret


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"SERVE_TLS_CERT": "{cert}"}, "SERVE_TLS_CERT is set and SERVE_TLS_KEY is not"),
        ({"SERVE_TLS_KEY": "{key}"}, "SERVE_TLS_KEY is set and SERVE_TLS_CERT is not"),
        ({"SERVE_TLS_CERT": "/nowhere", "SERVE_TLS_KEY": "{key}"}, "SERVE_TLS_CERT='/nowhere' cannot be read"),
        ({"SERVE_TLS_CERT": "{cert}", "SERVE_TLS_KEY": "/tmp"}, "SERVE_TLS_KEY='/tmp' cannot be read"),
        ({"SERVE_TLS_CERT": "{key}", "SERVE_TLS_KEY": "{key}"}, "holds no certificate in PEM form"),
        ({"SERVE_TLS_CERT": "{cert}", "SERVE_TLS_KEY": "{cert}"}, "is not the private key, in PEM form, of"),
        ({"SERVE_TLS_CERT": "{cert}", "SERVE_TLS_KEY": "{other}"}, "is not the private key, in PEM form, of"),
        ({"SERVE_TLS_CERT": "{cert}", "SERVE_TLS_KEY": "{locked}"}, "locked by a passphrase"),
    ],
)
def test_a_pair_that_cannot_serve_is_refused(
    tmp_path: Path, pair: tuple[Path, Path], settings: dict[str, str], said: str
) -> None:
    cert, key = pair
    _, other = make_certificate(tmp_path)
    files = {"cert": cert, "key": key, "other": other, "locked": locked(cert, key, tmp_path)[1]}
    chosen: dict[str, Any] = {
        name.lower().removeprefix("serve_"): Path(value.format(**files)) for name, value in settings.items()
    }
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        refuse_bad_pair(ServeSettings(**chosen))


def test_serve_and_doctor_refuse_a_bad_pair_with_one_sentence(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    settings = {"SERVE_ENGINE": str(fake_vllm.install(tmp_path)), "SERVE_GPUS": "1x NVIDIA H100 80GB HBM3"}
    environment = clean_environment(SERVE_TLS_CERT=str(pair[0]), **settings)
    for command in (["serve", "--dry-run"], ["doctor"]):
        done = subprocess.run(
            [sys.executable, "-m", "serving", *command], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode != 0
        assert "SERVE_TLS_CERT is set and SERVE_TLS_KEY is not" in " ".join((done.stdout + done.stderr).split())
