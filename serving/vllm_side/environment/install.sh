#!/usr/bin/env bash
# Make .venv-engine: the real vLLM, for CUDA where there is an NVIDIA GPU, else the CPU build. A second run does nothing.
# ENGINE=cpu or ENGINE=cuda overrides the detection.
set -euo pipefail
cd "$(dirname "$0")/../../.."
here=serving/vllm_side/environment
venv=.venv-engine

if [ "$(uname -s)" != Linux ]; then
  echo "vLLM runs on Linux only: set LLM_BASE_URL to a remote endpoint (see README) and use the client from here." >&2
  exit 1
fi
if [ -z "${ENGINE:-}" ]; then
  if [ -e /proc/driver/nvidia/version ] || [ -e /dev/nvidiactl ] || [ -e /dev/dxg ]; then ENGINE=cuda; else ENGINE=cpu; fi
fi
case "$ENGINE" in cpu | cuda) ;; *) echo "ENGINE='$ENGINE' is not allowed: cpu or cuda." >&2; exit 2 ;; esac

want="$ENGINE $(cat $here/*.txt $here/vllm_metadata/pyproject.toml $here/install.sh | cksum)"
[ "$(cat $venv/.installed 2>/dev/null)" = "$want" ] && exit 0

uv=.venv/bin/uv
echo "Installing vLLM for $ENGINE into $venv (once; several GB) ..."
"$uv" venv --quiet --clear --python .venv/bin/python "$venv"
install() { "$uv" pip install --python "$venv/bin/python" --constraints "$here/$ENGINE.txt" "$@"; }
if [ "$ENGINE" = cpu ]; then
  # torch's CPU build is on PyTorch's own index alone; a configured wheelhouse (UV_FIND_LINKS) makes it unnecessary.
  index=()
  [ -n "${UV_FIND_LINKS:-}" ] || index=(--extra-index-url https://download.pytorch.org/whl/cpu --index-strategy unsafe-best-match)
  install "${index[@]}" --overrides $here/overrides.txt --requirements $here/cpu.in ./$here/vllm_metadata
  rm -rf $here/vllm_metadata/build $here/vllm_metadata/*.egg-info
else
  install --requirements $here/cuda.in
fi
echo "$want" >$venv/.installed
