#!/usr/bin/env bash
# Write the constraint files anew, with the hashes of all that PyPI has; what is pinned stays where it can.
set -euo pipefail
cd "$(dirname "$0")/../../.."
here=serving/vllm_side/environment
pin() { .venv/bin/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links "$@"; }

pin pyproject.toml --extra serving --extra fleet --extra runpod --group dev --universal --constraints constraints.txt --output-file constraints.txt
pin $here/cuda.in --python-platform x86_64-manylinux_2_28 --output-file $here/cuda.txt
pin $here/cpu.in --python-platform x86_64-manylinux_2_28 --overrides $here/overrides.txt --output-file $here/cpu.txt
# torch's CPU build is no file of PyPI's: PyTorch's index and a wheelhouse need not hold the same one.
sed -i -E '/^torch==/,/[^\\]$/{/--hash/d; s/ \\$//}' $here/cpu.txt
