"""What `python -m serving serve` does with a machine, played with a stand-in `vllm` (SERVE_ENGINE) and SERVE_GPUS."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from serving.launch import prepare
from serving.settings import ServeSettings
from tests.support import fake_vllm
from tests.support.serving import ROOT, Serve, clean_environment, free_port

SERVE = (sys.executable, "-m", "serving", "serve")
H100 = "NVIDIA H100 80GB HBM3"
VLLM_SIDE = ROOT / "serving" / "vllm_side"


@pytest.fixture
def engine(tmp_path):
    return str(fake_vllm.install(tmp_path))


def serve(*arguments, **settings):
    return subprocess.run(
        [*SERVE, *arguments],
        cwd=ROOT,
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refusal(status, **settings):
    done = serve(**settings)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def expected(engine, gpus):
    return [
        engine,
        "serve",
        "google/gemma-3-27b-it",
        *["--dtype", "bfloat16"],
        *["--tensor-parallel-size", str(gpus)],
        *["--max-model-len", "131072"],
        *["--max-num-batched-tokens", "2048"],
        *["--max-num-seqs", "128"],
        *["--gpu-memory-utilization", "0.92"],
        *["--revision", "005ad3404e59d6023443cb575daa05336842228a"],
        *["--served-model-name", "google/gemma-3-27b-it"],
        *["--host", "127.0.0.1"],
        *["--port", "8123"],
        *["--shutdown-timeout", "30"],
        *["--disable-access-log-for-endpoints", "/health,/ping,/metrics"],
        *["--override-generation-config", '{"temperature": 1.0, "top_k": 64, "top_p": 0.95, "min_p": 0.0}'],
        *["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}'],
        *["--enable-auto-tool-choice", "--exclude-tools-when-tool-choice-none"],
        *["--tool-parser-plugin", f"{VLLM_SIDE}/tool_parser/python_call_parser.py"],
        *["--tool-call-parser", "python_calls"],
        *["--chat-template", f"{VLLM_SIDE}/templates/gemma3.jinja", "--chat-template-content-format", "openai"],
        *["--middleware", "requests_waiting.RequestsWaiting", "--middleware", "any_schema.AnySchema"],
        *["--middleware", "live_page.LivePage", "--middleware", "media_guard.MediaGuard"],
    ]


@pytest.mark.parametrize("gpus", [1, 2])
def test_the_command_line_for_gemma_3_27b_on_80_gb_gpus(engine, gpus):
    done = serve("--dry-run", SERVE_ENGINE=engine, SERVE_GPUS=f"{gpus}x {H100}", SERVE_PORT="8123")
    assert done.returncode == 0, done.stderr
    import shlex

    assert shlex.split(done.stdout) == expected(engine, gpus)


def test_settings_reach_the_command_line_and_extra_arguments_come_last(engine):
    done = serve(
        "--dry-run",
        SERVE_ENGINE=engine,
        SERVE_GPUS=f"1x {H100}",
        SERVE_MAX_MODEL_LEN="9000",
        SERVE_MAX_NUM_SEQS="9",
        SERVE_TEXT_ONLY="1",
        SERVE_TOOLS="0",
        SERVE_HOST="0.0.0.0",
        SERVE_API_KEY="hush-hush",
        LLM_MODEL="gemma",
        SERVE_ACCESS_LOG="/dev/null",
        SERVE_OTLP_ENDPOINT="http://127.0.0.1:4317",
        SERVE_EXTRA_ARGS="--seed '1' --generation-config vllm",
    )
    assert done.returncode == 0, done.stderr
    line = done.stdout.strip()
    for part in (
        "--max-model-len 9000",
        "--max-num-seqs 9",
        "--language-model-only",
        "templates/gemma3.jinja",
        "--host 0.0.0.0",
        "--served-model-name gemma",
        "--middleware tools_off.ToolsOff --middleware media_guard.MediaGuard --middleware api_key_guard.ApiKeyGuard "
        "--middleware access_log.AccessLog",
        "--otlp-traces-endpoint http://127.0.0.1:4317",
    ):
        assert part in line
    assert "--tool-call-parser" not in line
    assert line.endswith("--seed 1 --generation-config vllm")
    assert "hush" not in done.stdout + done.stderr


def test_the_engine_gets_the_key_by_its_environment_alone(engine):
    server = Serve({"SERVE_ENGINE": engine, "SERVE_GPUS": f"1x {H100}", "SERVE_API_KEY": "hush-hush"}, command=SERVE)
    try:
        server.wait_for("  ask ")
        vllm = server.engine()
        assert vllm.environ()["VLLM_API_KEY"] == "hush-hush"
        assert not [p for p in [server.supervisor, *server.descendants()] if "hush" in " ".join(p.cmdline())]
        assert "hush" not in "\n".join(server.output)
        server.supervisor.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        assert not psutil.pid_exists(vllm.pid)
    finally:
        server.close()


def test_a_vllm_that_dies_is_started_again(engine):
    server = Serve({"SERVE_ENGINE": engine, "SERVE_GPUS": f"1x {H100}"}, command=SERVE)
    try:
        server.wait_for("  ask ")
        os.kill(server.engine().pid, signal.SIGKILL)
        server.wait_for("Starting it again in 1 s (1 of 5).")
        server.wait_for("  ask ", times=2)
    finally:
        server.close()
    assert server.process.returncode == 0


def test_two_signals_kill_at_once(engine):
    server = Serve({"SERVE_ENGINE": engine, "SERVE_GPUS": f"1x {H100}", "FAKE_VLLM_LOAD": "600"}, command=SERVE)
    try:
        server.wait_for("starting vLLM, 1 of 2 processes")
        while len(server.descendants()) < 2:
            assert server.process.poll() is None
        server.supervisor.send_signal(signal.SIGINT)
        server.supervisor.send_signal(signal.SIGINT)
        assert server.wait() == 0
    finally:
        server.close()


def test_a_vllm_that_does_not_start_ends_it_with_the_reason(engine):
    line = "ValueError: No available memory for the cache blocks."
    done = serve(SERVE_ENGINE=engine, SERVE_GPUS=f"1x {H100}", FAKE_VLLM_FAIL=line, SERVE_PORT=str(free_port()))
    assert done.returncode == 1
    assert line in done.stderr
    assert "leave no memory for the KV cache" in done.stderr.splitlines()[-1]


def test_a_named_model_never_becomes_the_try_out_model(engine):
    message = refusal(3, SERVE_ENGINE=engine, SERVE_MODEL="google/gemma-3-27b-it", SERVE_GPUS="")
    assert "tryout" not in message


def test_a_gpu_means_gemma_never_the_try_out_model(engine):
    done = serve("--dry-run", SERVE_ENGINE=engine, SERVE_GPUS=f"1x {H100}")
    assert "tryout" not in done.stdout + done.stderr


def test_an_unknown_try_out_model_is_named(engine):
    assert "tryout-gemma-3-270m" in refusal(2, SERVE_ENGINE=engine, SERVE_MODEL="tryout-nothing")


def test_an_open_server_without_a_key_is_refused(engine):
    message = refusal(2, SERVE_ENGINE=engine, SERVE_GPUS=f"1x {H100}", SERVE_HOST="0.0.0.0")
    assert "SERVE_API_KEY" in message
    assert "SERVE_ALLOW_OPEN=1" in message
    done = serve("--dry-run", SERVE_ENGINE=engine, SERVE_GPUS=f"1x {H100}", SERVE_HOST="0.0.0.0", SERVE_ALLOW_OPEN="1")
    assert done.returncode == 0


def test_a_missing_engine_is_named():
    assert "SERVE_ENGINE='/nowhere/vllm'" in refusal(1, SERVE_ENGINE="/nowhere/vllm", SERVE_GPUS=f"1x {H100}")


def test_what_does_not_fit_is_said_before_anything_starts(engine):
    assert refusal(3, SERVE_ENGINE=engine, SERVE_GPUS="1x 8GiB sm90")


@pytest.mark.parametrize("arguments", [("--nonsense",), ("serve", "x")])
def test_wrong_options_are_exit_status_2(arguments):
    assert serve(*arguments).returncode == 2


def test_help_costs_no_heavy_import():
    code = "import sys, serving.__main__ as m\ntry:\n m.main(['--help'])\nexcept SystemExit: pass\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"import json\n{code}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    modules = json.loads(done.stdout.splitlines()[-1])
    assert not {"pydantic", "rich", "psutil", "aiohttp"} & set(modules)
    assert "plan-table" in done.stdout


def test_a_gated_model_without_a_token_is_refused_before_anything_starts(engine, tmp_path):
    settings = {
        "SERVE_ENGINE": engine,
        "SERVE_MODEL": "google/gemma-3-1b-it",
        "HF_HOME": str(tmp_path),
        "HOME": str(tmp_path),
    }
    message = refusal(1, **settings)
    assert "google/gemma-3-1b-it is gated, and HF_TOKEN is not set" in message
    assert "accept the licence" in message
    rehearsal = serve("--dry-run", **settings)
    assert rehearsal.returncode == 0
    assert "warning: access: google/gemma-3-1b-it is gated" in rehearsal.stderr


@pytest.mark.parametrize(
    ("given", "arguments", "environment"),
    [
        ({}, ["media_guard.MediaGuard"], {"VLLM_MEDIA_CONNECTOR": "public", "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0"}),
        (
            {"SERVE_MEDIA_DOMAINS": "a.example,b.example"},
            ["--allowed-media-domains", "a.example", "b.example"],
            {"VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0"},
        ),
        ({"SERVE_MEDIA_OPEN": "1"}, [], {}),
    ],
)
def test_where_images_may_be_fetched_from_is_a_setting(monkeypatch, engine, given, arguments, environment):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SERVE_ENGINE", str(engine))
    monkeypatch.setenv("SERVE_GPUS", f"1x {H100}")
    command = prepare(ServeSettings.load(None), dry_run=True).command
    found = [word for word in command.argv if "media" in word or word.endswith(".example")]
    assert found == arguments
    assert {name: value for name, value in command.env.items() if "MEDIA" in name} == environment


def test_the_engines_own_variables_in_the_env_file_reach_it_and_the_environment_wins(monkeypatch, engine, tmp_path):
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    monkeypatch.delenv("HF_HOME", raising=False)
    file = tmp_path / ".env"
    file.write_text(
        f"SERVE_ENGINE={engine}\nSERVE_GPUS=1x {H100}\nHF_HOME={tmp_path}/hub\nHF_ENDPOINT=https://mirror.example\n"
        "HUGGING_FACE_HUB_TOKEN=hf_x\nNCCL_DEBUG=INFO\nNCCL_P2P_DISABLE=1\nVLLM_LOGGING_LEVEL=WARNING\nOTHER=1\n"
    )
    env = prepare(ServeSettings.load(file), dry_run=True).command.env
    given = {"HF_HOME": f"{tmp_path}/hub", "HF_ENDPOINT": "https://mirror.example", "HF_TOKEN": "hf_x"}
    assert {**env, **given, "NCCL_P2P_DISABLE": "1"} == env
    assert not env.keys() & {"NCCL_DEBUG", "HUGGING_FACE_HUB_TOKEN", "OTHER"}
    assert env["VLLM_LOGGING_LEVEL"] == "INFO"  # the kit reads phases from it
