#!/usr/bin/env bash
# Make .venv-engine: the real vLLM, for CUDA where there is an NVIDIA GPU, else the CPU build. A second run does nothing.
# ENGINE=cpu or ENGINE=cuda overrides the detection; ENGINE_VENV names another folder, for a second vLLM beside it.
set -euo pipefail
cd "$(dirname "$0")/../../.."
here=serving/vllm_side/environment
venv=${ENGINE_VENV:-.venv-engine}
unset PYTHONPYCACHEPREFIX # byte code must lie where each start looks for it

if [ "$(uname -s)" != Linux ]; then
  echo "vLLM runs on Linux only: set LLM_BASE_URL to a remote endpoint (see README) and use the client from here." >&2
  exit 1
fi
# Under WSL2 the device is there without an NVIDIA driver, too: Windows brings that as a library. Tests set SYSTEM.
on() { [ -e "${SYSTEM:-}$1" ]; }
nvidia() { on /proc/driver/nvidia/version || on /dev/nvidiactl || { on /dev/dxg && on /usr/lib/wsl/lib/libcuda.so.1; }; }
[ -n "${ENGINE:-}" ] || if nvidia; then ENGINE=cuda; else ENGINE=cpu; fi
if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ]; then
  echo "ENGINE_VENV='$venv' is not allowed: it is there and no virtual environment, and would be emptied." >&2
  exit 2
fi
case "$ENGINE" in cpu | cuda) ;; *) echo "ENGINE='$ENGINE' is not allowed: cpu or cuda." >&2; exit 2 ;; esac

exec 9>.venv/engine.lock # two at once take turns
flock 9
show() { .venv/bin/python "$here/show_progress.py"; }
want="$ENGINE $(cat $here/*.in $here/*.txt $here/vllm_metadata/pyproject.toml | cksum)"
if [ "$(cat $venv/.installed 2>/dev/null)" != "$want" ]; then
  echo "Installing vLLM for $ENGINE into $venv (once; several GB)."
  uv=.venv/bin/uv
  "$uv" venv --quiet --clear --python .venv/bin/python "$venv"
  install() { "$uv" pip install --python "$venv/bin/python" --constraints "$here/$ENGINE.txt" "$@" 2>&1 | show; }
  if [ "$ENGINE" = cpu ]; then
    # torch's CPU build is on PyTorch's own index alone, which is asked for nothing else; a configured wheelhouse
    # (UV_FIND_LINKS) makes it unnecessary. TORCH_CPU_INDEX names a mirror.
    index=()
    [ -n "${UV_FIND_LINKS:-}" ] || index=(--index-url "${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}")
    install "${index[@]}" --no-deps "$(grep '^torch==' $here/cpu.in)"
    install --overrides $here/overrides.txt --requirements $here/cpu.in ./$here/vllm_metadata
    rm -rf $here/vllm_metadata/build $here/vllm_metadata/*.egg-info
  else
    install --requirements $here/cuda.in
  fi
  echo "$want" >$venv/.installed
fi

# Without byte code each of vLLM's processes compiles the same files again at each start, which takes as long as the
# rest of the start; with PYTHONDONTWRITEBYTECODE (usual in containers) none would ever be kept.
if [ "$(cat $venv/.compiled 2>/dev/null)" != "$want" ]; then
  echo "Compiling the byte code of $venv (once; each start is twice as fast with it)."
  "$venv/bin/python" -I "$here/compile_bytecode.py" "$venv" | show
  echo "$want" >$venv/.compiled
fi
