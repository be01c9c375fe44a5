"""Ask vLLM what a model takes, from its config.json alone: no weights, no GPU. Runs in the engine's environment.

    python describe_model.py FOLDER [TENSOR_PARALLEL_SIZE ...]

Makes the model on torch's meta device, which has sizes and no memory, once for each tensor-parallel size, and prints
JSON lines: `{"phase": ...}` on the way, at the end the description:

    version        vLLM's
    architecture   the class that was made, `part` "whole" or "text" (see below)
    max_model_len  the longest length that vLLM derives from the configuration
    heads, hidden, intermediate, vocab, dtype, mla, hybrid, multimodal
    weights        by tensor-parallel size (a string): bytes by kind, as one GPU holds them: "linear" and "experts",
                   "kept" (those of them that the quantisation leaves out), "embedding", "tower" (what takes images
                   and sound), "other"; and "buffers", which are no parameters
    quantised      whether `weights` are those of the quantised form; false where vLLM cannot make that form here
    kv_layers      by tensor-parallel size: alike layers of the KV cache, with how many there are
    rest_bytes     bytes of what was not made (the towers for images and sound), null where that is not known
    unknown        sentences about what could not be known

Where the environment lacks what the whole model imports (the CPU engine's has no torchvision), the language model is
made alone and the rest is counted with transformers' own class, also on the meta device.
"""

import contextlib
import json
import os
import re
import socket
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from layer_sizes import kv_layers, left_out_by, weights

# The JSON goes to where stdout was; everything that anybody prints goes to stderr.
ANSWERS = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)
os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
os.environ.pop("VLLM_KV_CACHE_LAYOUT", None)

SIZES = (1, 2, 4, 8)


def say(**what):
    """Print one line of JSON."""
    print(json.dumps(what), file=ANSWERS, flush=True)


def engine_config(folder):
    """Return vLLM's configuration for a folder."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform

    # This machine need not be able to run the model, only to say how large it is.
    type(current_platform).supported_quantization = []
    arguments = EngineArgs(
        model=str(folder), load_format="dummy", skip_tokenizer_init=True, enforce_eager=True, dtype=computed_in(folder)
    )
    return arguments.create_engine_config()


def computed_in(folder):
    """Return in what the model is made: what its configuration says if that has 16 bits, else bfloat16."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    said = [part.get(key) for part in (config, config.get("text_config") or {}) for key in ("dtype", "torch_dtype")]
    return next((kind for kind in map(str, said) if kind in ("bfloat16", "float16")), "bfloat16")


def load_class(name):
    """Import the class behind an architecture's name here: vLLM would ask a process of its own, for half a minute."""
    from vllm.model_executor.models import ModelRegistry, registry

    if name in registry._VLLM_MODELS:
        module, class_name = registry._VLLM_MODELS[name]
        module = module if module.startswith("vllm.") else f"vllm.model_executor.models.{module}"
        ModelRegistry.register_model(name, getattr(import_module(module), class_name))


def language_model(config, scratch):
    """Write the configuration of the language model alone into `scratch`; yield each class that could make it."""
    text = dict(config["text_config"])
    for key in ("quantization_config", "dtype", "torch_dtype", "tie_word_embeddings"):
        if key in config and key not in text:
            text[key] = config[key]
    # Names of modules lose the part that is left away.
    quantised = json.dumps(text.get("quantization_config"))
    for outer, inner in (
        ("model.language_model.", "model."),
        ("language_model.model.", "model."),
        ("language_model.", ""),
    ):
        quantised = quantised.replace(outer, inner)
    if quantised != "null":
        text["quantization_config"] = json.loads(quantised)
    for name in candidates(config, text):
        (scratch / "config.json").write_text(json.dumps(text | {"architectures": [name]}), encoding="utf-8")
        yield name


def candidates(config, text):
    """Return the names of the classes that may be the language model of a larger one, likeliest first."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from vllm.model_executor.models import registry

    known = registry._VLLM_MODELS
    found = list(text.get("architectures") or ())
    for name in config.get("architectures") or ():
        if name in known:  # the larger class names the smaller one in its source
            source = Path(registry.__file__).with_name(f"{known[name][0]}.py")
            with contextlib.suppress(OSError):
                found += re.findall(r'architectures=\["(\w+)"\]', source.read_text(encoding="utf-8"))
        found.append(name.replace("ForConditionalGeneration", "ForCausalLM"))
    found.append(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(text.get("model_type"), ""))
    return [name for name in dict.fromkeys(found) if name in known]


def rest_bytes(folder):
    """Return the bytes of the parameters outside the language model, by transformers' own class; None if unknown."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(folder)
    for part in (config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", ()))):
        if getattr(part, "quantization_config", None) is not None:
            del part.quantization_config
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    return 2 * sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if "language_model" not in name and not name.startswith("lm_head")
    )


def let_meta_tensors_be_read():
    """Let a number be taken out of a tensor without memory: no size hangs on what it is."""
    import torch

    read = torch.Tensor.item
    torch.Tensor.item = lambda tensor: 0.0 if tensor.is_meta else read(tensor)


def begin(tensor_parallel):
    """Make this process the first of `tensor_parallel` that share a model, without the others."""
    from vllm.distributed import parallel_state

    if parallel_state._TP is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        parallel_state.init_distributed_environment(1, 0, address, 0, "gloo")
        parallel_state.initialize_model_parallel(1, 1)
    parallel_state._TP.world_size = tensor_parallel  # modules ask for it when they size themselves


def describe(folder, sizes, *, part):
    """Return the description of the model in a folder: of its quantised form, or if that fails of its plain one."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    quantised = config.pop("quantization_config", None)
    left_out = left_out_by(quantised)
    try:
        return made(folder, sizes, left_out) | {"part": part, "quantised": True}
    except Exception as error:
        if quantised is None:
            raise
        say(phase=f"making the model without its quantisation ({first_line(error)})")
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return made(temporary, sizes, left_out) | {"part": part, "quantised": False}


def made(folder, sizes, left_out):
    """Make the model in a folder once for each tensor-parallel size; return its description."""
    import torch
    from vllm import __version__
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.utils import initialize_model

    found = {"version": __version__, "weights": {}, "kv_layers": {}, "unknown": [], "rest_bytes": 0}
    for size in sizes:
        config = engine_config(folder)
        model_config, text = config.model_config, config.model_config.hf_text_config
        heads = (
            model_config.get_total_num_attention_heads()
            if hasattr(model_config, "get_total_num_attention_heads")
            else getattr(text, "num_attention_heads", 0)
        )
        if size > 1 and heads and heads % size:
            continue
        say(phase=f"making the model for {size} GPU{'s' if size > 1 else ''}")
        try:
            with set_current_vllm_config(config):
                begin(size)
                config.parallel_config.tensor_parallel_size = size
                torch.set_default_dtype(model_config.dtype)
                with torch.device("meta"):
                    model = initialize_model(config)
                found["weights"][str(size)] = weights(model, left_out)
                found["kv_layers"][str(size)] = kv_layers(config)
        except Exception as error:
            if size == 1:
                raise
            found["unknown"].append(f"vLLM does not divide it among {size} GPUs ({first_line(error)})")
            continue
        found |= {
            "architecture": model_config.architectures[0],
            "max_model_len": model_config.max_model_len,
            "dtype": str(model_config.dtype).removeprefix("torch."),
            "heads": heads,
            "hidden": model_config.get_hidden_size(),
            "intermediate": widest(text),
            "vocab": model_config.get_vocab_size(),
            "mla": bool(model_config.use_mla),
            "hybrid": bool(model_config.is_hybrid),
            "multimodal": model_config.multimodal_config is not None,
        }
    return found


def widest(text):
    """Return how wide the widest feed-forward layer is; a few models name a width for each layer."""
    widths = getattr(text, "intermediate_size", None) or getattr(text, "moe_intermediate_size", None) or 0
    return max(widths) if isinstance(widths, (list, tuple)) else widths


def first_line(error):
    """Return what an error says, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def main():
    """Describe the model in the folder that is named."""
    folder = Path(sys.argv[1])
    sizes = tuple(int(size) for size in sys.argv[2:]) or SIZES
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    say(phase="importing vLLM")
    let_meta_tensors_be_read()
    try:
        for name in config.get("architectures") or ():
            load_class(name)
        say(**describe(folder, sizes, part="whole"))
        return
    except Exception as error:
        if "text_config" not in config:
            say(error=first_line(error))
            return
        failure = error
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        for name in language_model(config, scratch):
            try:
                load_class(name)
                found = describe(scratch, sizes, part="text")
                break
            except Exception as error:
                failure = error
        else:
            say(error=first_line(failure))
            return
    found["multimodal"] = True
    try:
        found["rest_bytes"] = rest_bytes(folder)
    except Exception as error:
        found["rest_bytes"] = None
        found["unknown"].append(f"the size of what it has beside the language model ({first_line(error)})")
    say(**found)


if __name__ == "__main__":
    main()
