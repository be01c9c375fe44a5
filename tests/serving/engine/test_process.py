"""Engine and reaper, with small programs in vLLM's place: what matters here is how processes live and die."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from serving.engine.command import EngineCommand
from serving.engine.process import Engine
from serving.errors import EngineFailed, Refused

SERVER = """
    import http.server, signal, subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session={new_session})
    print("child", child.pid, flush=True)
    {on_start}
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
        def log_message(self, *args):
            pass
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def make_engine():
    engines = []

    def make(program=SERVER, port=None, *, new_session=False, on_start="pass"):
        port = port or free_port()
        source = textwrap.dedent(program).format(new_session=new_session, on_start=on_start)
        command = EngineCommand((sys.executable, "-c", source, str(port)), {}, "127.0.0.1", port, "x")
        engines.append(Engine(command))
        return engines[-1]

    yield make
    for engine in engines:
        if engine.pid is not None:
            engine.kill()
            assert engine.wait(20) is not None


def child_of(engine):
    deadline = time.monotonic() + 20
    while not any(line.startswith("child") for line in engine.tail):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return next(int(line.split()[1]) for line in engine.tail if line.startswith("child"))


def gone(pid, within=20.0):
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_ready_then_stopped_and_nothing_is_left(make_engine):
    engine = make_engine()
    engine.start()
    engine.wait_ready(20)
    child = child_of(engine)
    assert engine.poll() is None
    assert engine.stop(5) == -signal.SIGTERM
    assert gone(child)


@pytest.mark.parametrize("new_session", [False, True])
def test_a_crash_takes_the_children_along_before_it_is_reported(make_engine, new_session):
    engine = make_engine(new_session=new_session)
    engine.start()
    engine.wait_ready(20)
    child = child_of(engine)
    os.kill(engine.pid, signal.SIGKILL)
    assert engine.wait(20) == -signal.SIGKILL
    assert not psutil.pid_exists(child)


@pytest.mark.parametrize("new_session", [False, True])
def test_it_dies_with_whoever_started_it(tmp_path, new_session):
    source = textwrap.dedent(SERVER).format(new_session=new_session, on_start="pass")
    port = free_port()
    owner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\n"
            "from serving.engine.process import Engine\nfrom serving.engine.command import EngineCommand\n"
            f"command = EngineCommand((sys.executable, '-c', {source!r}, '{port}'), {{}}, '127.0.0.1', {port}, 'x')\n"
            "engine = Engine(command, on_line=lambda line: print(line, flush=True))\n"
            "engine.start()\nprint('pid', engine.pid, flush=True)\ntime.sleep(600)",
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    pids = {line.split()[0]: int(line.split()[1]) for line in (owner.stdout.readline(), owner.stdout.readline())}
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert gone(pids["pid"])
    assert gone(pids["child"])


def test_a_killed_reaper_leaves_no_vllm_behind(make_engine):
    engine = make_engine()
    engine.start()
    engine.wait_ready(20)
    child = child_of(engine)
    reaper = psutil.Process(engine.pid).parent()
    reaper.kill()
    assert engine.wait(20) == -signal.SIGKILL
    assert gone(engine.pid)
    assert gone(child)


def test_an_end_while_loading_is_a_failure_with_the_last_lines(make_engine):
    engine = make_engine(on_start="sys.exit('vllm: error: unrecognized arguments: --nonsense 1')")
    engine.start()
    with pytest.raises(EngineFailed, match=r"vLLM does not know --nonsense 1: check SERVE_EXTRA_ARGS") as caught:
        engine.wait_ready(20)
    assert caught.value.tail[-1] == "vllm: error: unrecognized arguments: --nonsense 1"
    assert engine.poll() == 1


def test_a_start_that_takes_too_long_is_killed(make_engine):
    engine = make_engine(on_start="time.sleep(600)")
    engine.start()
    child = child_of(engine)
    with pytest.raises(EngineFailed, match="SERVE_STARTUP_TIMEOUT=0 s"):
        engine.wait_ready(0.2)
    assert gone(child)


def test_one_that_ignores_sigterm_can_be_killed(make_engine):
    engine = make_engine(on_start="signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    engine.start()
    engine.wait_ready(20)
    engine.terminate()
    assert engine.wait(0.3) is None
    engine.kill()
    assert engine.wait(20) == -signal.SIGKILL


def test_a_taken_port_is_refused_with_its_holder(make_engine):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(Refused, match=rf"Port {port} is taken by .*\(pid {os.getpid()}\).*SERVE_PORT"):
            make_engine(port=port).start()


def test_health_from_another_process_is_not_readiness(make_engine):
    """Somebody else takes the port while our vLLM loads: its /health must not count."""
    ours = make_engine("import time\nprint('loading', flush=True)\ntime.sleep(600)")
    ours.start()
    other = make_engine(port=ours.command.port)
    other.start()
    other.wait_ready(20)
    with pytest.raises(EngineFailed, match="SERVE_STARTUP_TIMEOUT"):
        ours.wait_ready(1)


def test_a_program_that_cannot_run_is_refused(tmp_path):
    command = EngineCommand((str(tmp_path / "absent"),), {}, "127.0.0.1", free_port(), "x")
    with pytest.raises(Refused, match="SERVE_ENGINE"):
        Engine(command).start()


def test_redrawn_progress_bars_are_one_line_each(make_engine):
    engine = make_engine(on_start="sys.stdout.write('load 1%\\rload 100%\\n'); sys.exit(3)")
    engine.start()
    assert engine.wait(20) == 3
    assert engine.tail[-1] == "load 100%"


def test_secrets_stay_out_of_the_repr():
    assert "hush" not in repr(EngineCommand(("vllm",), {"VLLM_API_KEY": "hush"}, "127.0.0.1", 1, "x"))
