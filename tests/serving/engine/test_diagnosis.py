"""Why vLLM ended. The lines are vLLM's, torch's, NCCL's and huggingface_hub's own."""

import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine.diagnosis import FailureReader, diagnose
from serving.engine.failures import failures
from serving.engine.progress import Progress
from tests.serving.engine import failure_cases
from tests.support.serving import ROOT

CASES = {
    "SERVE_MAX_MODEL_LEN=103312": "ValueError: To serve at least one request with the model's max seq len (131072), (17.98 GiB KV cache is needed, which is larger than the available KV cache memory (15.9 GiB). Based on the available memory, the estimated maximum model length is 103312. Try increasing",
    "lower SERVE_MAX_MODEL_LEN.": "ValueError: To serve at least one request with the model's max seq len (131072), (17.98 GiB KV cache is needed, which is larger than the available KV cache memory (0.1 GiB). Try increasing",
    "leave no memory for the KV cache": "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
    "Only 12.5 of the GPU's 79.2 GiB are free": "ValueError: Free memory on device cuda:0 (12.5/79.2 GiB) on startup is less than desired GPU memory utilization (0.92, 72.9 GiB).",
    "ran out of memory": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    "float16": "ValueError: The model type 'gemma3' does not support float16. Reason: Numerical instability.",
    "HF_TOKEN to a token of that account": "huggingface_hub.errors.GatedRepoError: 401 Client Error.",
    "check SERVE_MODEL": "OSError: nobody/nothing is not a local folder and is not a valid model identifier listed on",
    "SERVE_PORT": "OSError: [Errno 98] Address already in use",
    "does not know --foo=1": "vllm: error: unrecognized arguments: --foo=1",
    "value of --max-num-seqs": "vllm serve: error: argument --max-num-seqs: invalid int value: 'x'",
    "disk is full": "OSError: [Errno 28] No space left on device",
    "Hugging Face cannot be reached": "OSError: We couldn't connect to 'https://huggingface.co' to load the files",
    "found no GPU": "RuntimeError: Failed to infer device type, please set the environment variable",
    "config.json": "ValueError: Invalid repository ID or local directory specified: 'x'.",
}


@pytest.mark.parametrize(("expected", "line"), list(CASES.items()))
def test_a_known_text_becomes_one_sentence_that_says_what_to_do(expected, line):
    sentence = diagnose(
        ["(EngineCore pid=1) INFO something", line, "RuntimeError: Engine core initialization failed."], 1
    )
    assert expected in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("code", "expected"), [(-9, "SIGKILL"), (-4, "AVX2"), (-11, "by signal 11"), (7, "with status 7")]
)
def test_an_unknown_end_says_how_it_ended(code, expected):
    assert expected in diagnose(["nothing of note"], code)


# What surrounds a failure: what vLLM logs on the way, retried downloads, what other processes say of the end.
BEFORE = (
    "INFO 11-22 23:30:02 [core.py:98] Initializing a V1 LLM engine (v0.32.0) with config: trust_remote_code=False",
    "WARNING 11-22 23:30:02 [import_utils.py:20] Failed to import: No module named 'vllm._C'",
    "'(MaxRetryError(\"HTTPSConnectionPool(host='huggingface.co', port=443): Max retries exceeded\"))' thrown while "
    "requesting HEAD https://huggingface.co/x/resolve/main/config.json Retrying in 1s [Retry 1/5].",
    "(EngineCore pid=41) INFO 11-22 23:30:09 [gpu_model_runner.py:1] Starting to load model",
    "(Worker_TP0 pid=9) WARNING 11-22 23:31:02 [shm_broadcast.py:1] No available shared memory broadcast block found",
)
AFTER = (
    "(EngineCore pid=41) ERROR 11-22 23:30:02 [core.py:343] EngineCore failed to start.",
    '(EngineCore pid=41) ERROR 11-22 23:30:02 [core.py:343]   File "/x/site-packages/vllm/v1/engine/core.py", line 9',
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    "(APIServer pid=1) BrokenPipeError: [Errno 32] Broken pipe",
    "[rank0]:[W1122 ProcessGroupNCCL.cpp:1496] Warning: WARNING: destroy_process_group() was not called",
    "resource_tracker: There appear to be 1 leaked shared_memory objects to clean up at shutdown",
)


def read(lines):
    reader = FailureReader()
    for line in lines:
        reader.take(line)
    return reader


@pytest.mark.parametrize(
    ("name", "status", "text", "holds", "not_holds"), failure_cases.CASES, ids=[case[0] for case in failure_cases.CASES]
)
def test_every_kind_of_failure_is_explained_whatever_surrounds_it(name, status, text, holds, not_holds):
    lines = text.split("\n")
    workers = [
        f"(Worker_TP{rank} pid={rank}) ERROR 11-22 23:30:02 [x.py:9] {line}" for rank in range(8) for line in lines
    ]
    trace = [f"(Worker_TP{n % 8} pid={n % 8}) ERROR 11-22 23:30:02 [x.py:9]   File y, line {n}" for n in range(500)]
    for log in (lines, [*BEFORE, *lines, *AFTER], [*BEFORE, *workers, *trace, *AFTER]):
        cause = read(log).cause(status)
        assert cause.known
        assert re.search(holds, cause.sentence, re.IGNORECASE), cause.sentence
        assert not not_holds or not re.search(not_holds, cause.sentence), cause.sentence
        assert cause.sentence.isprintable()


CAUSES = [case for case in failure_cases.CASES if case[1] == 1 and case[0] not in ("worker died", "NCCL generic")]


@settings(deadline=None, max_examples=60)
@given(
    case=st.sampled_from(CAUSES),
    before=st.lists(st.sampled_from(BEFORE), max_size=20),
    after=st.lists(st.sampled_from(AFTER), max_size=20),
    rank=st.integers(0, 7),
)
def test_the_first_cause_wins_over_whatever_comes_before_and_after(case, before, after, rank):
    prefix = f"(Worker_TP{rank} pid={rank}) ERROR 11-22 23:30:02 [x.py:9] "
    alone = diagnose(case[2].split("\n"), 1)
    assert diagnose([*before, *(prefix + line for line in case[2].split("\n")), *after], 1) == alone


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.one_of(st.text(max_size=80), st.sampled_from([case[2] for case in failure_cases.CASES])), max_size=6),
    st.integers(-70, 300) | st.none(),
)
def test_any_log_gets_one_printable_line(lines, status):
    sentence = diagnose(lines, status)
    assert sentence.isprintable()
    assert len(sentence) < 1000


def test_what_is_not_known_is_quoted_without_secrets_or_escapes():
    lines = ["(Worker pid=3) ERROR 11-22 23:30:02 [x.py:9] foo.OddError: \x1b[2Jno hf_abcdefghijk //me:pw@host", *AFTER]
    cause = read(lines).cause(1)
    assert not cause.known
    assert (
        cause.sentence
        == "vLLM ended with status 1: its last lines say why (its first error: foo.OddError: no *** //***@host)."
    )


def test_what_a_start_said_does_not_explain_a_later_end():
    reader = read(["torch.OutOfMemoryError: CUDA out of memory"])
    reader.forget()
    assert "out of memory" not in reader.cause(1).sentence


def test_a_hang_is_explained_while_it_hangs(capsys):
    line = "(Worker_TP0 pid=9) INFO 11-22 23:31:02 [shm_broadcast.py:1] No available shared memory broadcast block found in 60 seconds."
    with Progress("error") as progress:
        progress.begin(3)
        progress.line(line)
        assert "NCCL_P2P_DISABLE" not in capsys.readouterr().err
        for _ in range(3):
            progress.line(line)
        assert capsys.readouterr().err.count("NCCL_P2P_DISABLE=1") == 1
        progress.end()


def test_every_text_of_the_table_says_where_it_was_seen_and_is_filled():
    for failure in failures():
        assert failure.seen
        assert set(re.findall(r"\{(\w+)\}", failure.say)) <= set(failure.pattern.groupindex)
        assert failure.say.endswith((".", ")"))


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [("known", 0, "SERVE_MAX_MODEL_LEN is --max-model-len"), ("unknown", 1, "with status 3")],
)
def test_any_log_can_be_explained(tmp_path, given, status, said):
    text = failure_cases.CASES[32][2] if given == "known" else "nothing"
    (tmp_path / "log").write_bytes(b"\xff\n" + text.encode())
    for arguments in ([str(tmp_path / "log")], ["-"]):
        with (tmp_path / "log").open("rb") as log:
            done = subprocess.run(
                [sys.executable, "-m", "serving", "explain", *arguments, "--status", "3"],
                cwd=ROOT,
                stdin=log,
                capture_output=True,
                text=True,
                check=False,
            )
        assert (done.returncode, said in done.stdout) == (status, True), done
