"""Settings that change what fits, and the way past the plan: what is not known is said, and handed on to vLLM."""

import json
from dataclasses import replace

import pytest

from serving.engine.command import plan_arguments
from serving.errors import ConfigurationError
from serving.hardware.parse import parse_gpus
from serving.model.gemma3 import FAMILY
from serving.model.resolve import resolve
from serving.model.shipped import shipped
from serving.planning.plan import PlanRequest, make_plan
from tests.serving.model.test_model import LLAMA, folder
from tests.serving.test_pipeline import run  # noqa: F401 (a fixture)

GEMMA_27B = FAMILY[0]
H100 = "1x NVIDIA H100 80GB HBM3"
STRANGE = LLAMA | {"quantization_config": {"quant_method": "of_tomorrow"}}


def plan(gpus, model=GEMMA_27B, **request):
    return make_plan(model, parse_gpus(gpus), PlanRequest(**request))


def test_an_fp8_cache_leaves_the_sliding_layers_of_a_hybrid_as_they_are():
    """An L40S, Gemma 3 27B: 206,816 tokens in 11.6 GiB by vLLM's own code; with the sliding layers 245,432."""
    chosen = {"precision": "fp8", "kv_cache_dtype": "fp8"}
    skipped, all_layers = plan("1x L40S", kv_skip_sliding=True, **chosen), plan("1x L40S", **chosen)
    assert skipped.kv_cache_tokens == pytest.approx(206_816, rel=0.02)
    assert all_layers.kv_cache_tokens == pytest.approx(245_432, rel=0.02)
    assert "--kv-cache-dtype-skip-layers" in plan_arguments(skipped)
    uniform = plan(H100, resolve("google/gemma-3-1b-it"), kv_cache_dtype="fp8", kv_skip_sliding=True)
    assert uniform.kv_skip_sliding  # of 26 layers 4 are full


def test_quantising_on_load_halves_the_linear_layers():
    loaded, plain = plan(H100, quantization="fp8"), plan(H100)
    ready = plan(H100, precision="fp8")
    assert loaded.checkpoint == plain.checkpoint
    assert loaded.memory_gib["weights"] == pytest.approx(ready.memory_gib["weights"], rel=0.02)
    assert "--quantization" in plan_arguments(loaded)
    assert "--quantization" not in plan_arguments(ready)


@pytest.mark.parametrize(
    ("gpus", "model", "request_", "said"),
    [
        ("", GEMMA_27B, {"quantization": "fp8"}, "SERVE_QUANTIZATION='fp8' is not allowed without a GPU"),
        (H100, shipped("RedHatAI/gemma-3-27b-it-FP8-dynamic"), {"quantization": "fp8"}, "no plain weights are known"),
        (H100, GEMMA_27B, {"quantization": "fp8", "precision": "int4"}, "unset one"),
        ("", FAMILY[4], {"kv_cache_dtype": "fp8"}, "SERVE_KV_CACHE_DTYPE='fp8' is not allowed without a GPU"),
    ],
)
def test_what_vllm_refuses_is_refused_in_one_sentence(gpus, model, request_, said):
    with pytest.raises(ConfigurationError) as caught:
        plan(gpus, model, **request_)
    assert said in str(caught.value)


def test_arguments_that_take_memory_and_are_not_counted_are_named():
    found = plan(H100, **vars_of(PlanRequest().with_arguments(("--enable-lora", "--cpu-offload-gb=4", "--seed", "1"))))
    assert found.reasons["not_counted"].startswith("What --enable-lora and --cpu-offload-gb in SERVE_EXTRA_ARGS")
    assert "not_counted" not in plan(H100).reasons


def vars_of(request):
    return {"not_counted": request.not_counted}


@pytest.mark.parametrize("gpus", [H100, "4x H100", "3x NVIDIA L4", "", "2x NVIDIA H100 80GB HBM3 MIG 3g.40gb"])
def test_without_a_plan_vllm_gets_the_model_and_what_the_user_set(gpus):
    found = plan(gpus, replace(GEMMA_27B, sized=False, notes=("Nobody knows.",)), max_num_seqs=7)
    assert (found.fits, found.planned, found.kv_cache_tokens) == (True, False, None)
    arguments = plan_arguments(found)
    assert arguments[arguments.index("--max-num-seqs") + 1] == "7"
    assert arguments[arguments.index("--max-model-len") + 1] == "auto"
    assert "Nobody knows." in found.summary


def test_weights_of_an_unknown_form_are_handed_on_with_a_warning(run, tmp_path):  # noqa: F811
    strange = folder(tmp_path / "model", STRANGE)
    done = run("serve", "--dry-run", SERVE_GPUS=H100, SERVE_MODEL=strange)
    assert done.status == 0, done.stderr
    assert "warning: plan: No plan" in done.stderr
    assert "of_tomorrow" in done.stderr
    assert "--max-model-len auto" in done.stdout
    assert run("plan", SERVE_GPUS=H100, SERVE_MODEL=strange).status == 0
    found = json.loads(run("plan", "--json", SERVE_GPUS=H100, SERVE_MODEL=strange).stdout)
    assert (found["fits"], found["kv_cache_tokens"], found["max_model_len"]) == (True, None, None)
    assert run("doctor", SERVE_GPUS=H100, SERVE_MODEL=strange).status == 0
    assert "cannot be exported" in run("export", "helm", SERVE_GPUS=H100, SERVE_MODEL=strange).refusal


def test_their_files_say_how_large_they_are(tmp_path):
    known = folder(tmp_path, STRANGE, model=9_000_000_000)
    assert make_plan(resolve(known), parse_gpus(H100), PlanRequest()).planned


@pytest.mark.parametrize("model", ["google/gemma-3-27b-it", "acme/unheard-of"])
def test_serve_plan_off_serves_what_would_not_fit_and_what_nobody_knows(run, model):  # noqa: F811
    done = run("serve", "--dry-run", SERVE_GPUS="1x NVIDIA L4", SERVE_MODEL=model, SERVE_PLAN="off")
    assert done.status == 0, done.stderr
    assert "warning: plan: No plan" in done.stderr
    assert model in done.stdout
    missing = run("serve", "--dry-run", SERVE_GPUS=H100, SERVE_MODEL="./nowhere", SERVE_PLAN="off")
    assert "there is no such folder" in missing.refusal


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"SERVE_LOAD_FORMAT": "fastsafetensors"}, "needs fastsafetensors beside vLLM"),
        ({"SERVE_LOAD_FORMAT": "ipc_cache"}, "vllm preload"),
        ({"SERVE_EXTRA_ARGS": "--cpu-offload-gb 4"}, "What --cpu-offload-gb in SERVE_EXTRA_ARGS takes"),
    ],
)
def test_what_is_not_tried_or_not_counted_is_a_warning(run, settings, said):  # noqa: F811
    done = run("serve", "--dry-run", SERVE_GPUS=H100, **settings)
    assert done.status == 0, done.stderr
    assert said in done.stderr
