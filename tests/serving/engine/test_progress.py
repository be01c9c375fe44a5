"""What a person sees of a start, from what vLLM logs."""

from __future__ import annotations

import io
import sys
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine import silence
from serving.engine.progress import Progress
from serving.engine.silence import Effort, explain, explain_silence

if TYPE_CHECKING:
    from pathlib import Path

    from serving.engine.process import Engine

# vLLM 0.32 on the CPU, and on two GPUs; what happens in between left out.
LINES = (
    "Triton is installed, but doesn't include CPU backend. Disabling Triton.",
    "(APIServer pid=14367) INFO 11-25 14:05:54 [api_utils.py:286] non-default args: {}",
    "(APIServer pid=14367) INFO 11-25 14:05:54 [model.py:2152] Using max model len 8192",
    "(EngineCore pid=15377) INFO 11-25 14:06:42 [core.py:133] Initializing a V1 LLM engine (v0.32.0)",
    "(Worker_TP0 pid=17042) INFO 11-25 14:07:18 [parallel_state.py:1906] world_size=2 rank=0",
    "(Worker_TP0 pid=17042) INFO 11-25 14:07:18 [cpu_model_runner.py:68] Starting to load model google/gemma...",
    "(Worker_TP0 pid=17042) INFO 11-25 14:07:19 [default_loader.py:501] Loading weights took 0.60 seconds",
    "(Worker_TP1 pid=17043) INFO 11-25 14:07:19 [cpu_model_runner.py:68] Starting to load model google/gemma...",
    "(EngineCore pid=15377) INFO 11-25 14:07:22 [core.py:402] init engine (profile, create kv cache) took 0.70 s",
    "(APIServer pid=14367) INFO 11-25 14:07:25 [entry.py:136] Supported tasks: ['generate']",
)


def phases(text: str) -> list[str]:
    return [line.split("s] ", 1)[1] for line in text.splitlines()]


@pytest.mark.parametrize("processes", [2, 3])
def test_the_phases_are_named_by_what_happens(capsys: pytest.CaptureFixture[str], processes: int) -> None:
    with Progress("error") as progress:
        progress.begin(processes)
        for line in LINES:
            progress.line(line)
    starting = [f"starting vLLM, {number + 1} of {processes} processes" for number in range(processes)]
    assert phases(capsys.readouterr().err) == [*starting, "loading weights", "compiling"]


@given(st.lists(st.sampled_from(LINES)))
def test_whatever_the_order_a_start_goes_one_way_through_its_phases(lines: list[str]) -> None:
    order = [*(f"starting vLLM, {number} of 3 processes" for number in (1, 2, 3)), "loading weights", "compiling"]
    before, sys.stderr = sys.stderr, io.StringIO()
    try:
        with Progress("error") as progress:
            progress.begin(3)
            for line in lines:
                progress.line(line)
        seen = [order.index(phase) for phase in phases(sys.stderr.getvalue())]
    finally:
        sys.stderr = before
    assert seen == sorted(set(seen))


def test_what_comes_before_the_first_start_counts_and_a_later_start_begins_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr("serving.engine.progress.time.monotonic", lambda: now[0])
    with Progress("error") as progress:
        progress.phase("converting a model")
        now[0] = 160.0
        progress.begin(3)
        now[0] = 200.0
        assert progress.end() == 100.0
        now[0] = 1000.0
        progress.begin(3)
        now[0] = 1030.0
        assert progress.end() == 30.0


def test_what_is_told_to_stop_complains_unheard_but_in_the_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trouble = "(APIServer pid=1) ERROR 11-25 14:08:17 [async_llm.py:906] Traceback (most recent call last):"
    for level, shown in (("error", False), ("info", True)):
        with Progress(level, tmp_path / level) as progress:
            progress.line("(APIServer pid=1) ERROR 11-25 14:08:17 [x.py:1] a real one")
            progress.stop_showing_errors()
            progress.line(trouble)
        said = capsys.readouterr().err
        assert "a real one" in said
        assert ("Traceback" in said) == shown
        assert "Traceback" in (tmp_path / level).read_text()


STILL, BUSY = Effort(), Effort(cpu=40.0)


@pytest.mark.parametrize(
    ("after", "gpus", "said", "unsaid"),
    [
        (STILL, 1, "it waits. It may be for the network", "NCCL"),
        (STILL, 4, "NCCL_P2P_DISABLE=1", "network"),
        (BUSY, 4, "keeps 4 of the processors busy: it computes, or compiles. With several GPUs", "waits."),
        (BUSY, 1, "it computes, or compiles.", "NCCL"),
        (Effort(cpu=3.0, read=5e9), 4, "reads 500 MB/s from the disk: it is loading", "NCCL"),
        (Effort(stopped=True), 4, "is stopped", "NCCL"),
    ],
)
def test_a_silence_is_explained_by_what_vllm_does(after: Effort, gpus: int, said: str, unsaid: str) -> None:
    sentence = explain(STILL, after, 10.0, silent=121.0, gpus=gpus)
    assert sentence.startswith("vLLM has logged nothing for 121 s")
    assert said in sentence
    assert unsaid not in sentence


def test_each_silence_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "INTERVAL_S", 0.01)
    monkeypatch.setattr(silence, "SILENT_S", 0.05)
    engine = SimpleNamespace(pid=None, heard_at=time.monotonic())
    told: list[str] = []
    came = threading.Event()

    def tell(text: str) -> None:
        told.append(text)
        came.set()

    with explain_silence(cast("Engine", engine), tell, gpus=1):
        for times in (1, 2):
            assert came.wait(20)
            came.clear()
            assert not came.wait(0.3)
            assert len(told) == times
            engine.heard_at = time.monotonic()
