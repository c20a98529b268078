#!/usr/bin/env bash
# Installs one part of a lock into an environment, as a layer of the image: `install.sh ENVIRONMENT [LIST]`. A list that
# is empty belongs to an engine that was not chosen. What earlier parts have installed is left as it is.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
target=$1
list=${2:-/part.txt}
uv=${UV:-$here/uv}
python=${PYTHON:-/usr/bin/python3}
wheels=${WHEELS:-/wheels}
loader=${LOADER:-/etc/ld.so.conf.d}

# No cache: it would take as much of the builder's disk again as the environment does. A part is what is kept.
export UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never UV_NO_PROGRESS=1

# Sets `options`. A folder of wheels comes before any index; torch for the CPU is only there, or in PyTorch's own index.
# TensorRT-LLM is only in NVIDIA's: the lock has neither its hash nor all that it needs, so it may add to it.
look_in() {
  local found
  [ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX=$PIP_INDEX_URL
  [ -z "${PIP_EXTRA_INDEX_URL:-}" ] || export UV_INDEX=$PIP_EXTRA_INDEX_URL
  options=()
  found=$(find "$wheels" -name '*.whl' -print -quit 2>/dev/null || true)
  [ -z "$found" ] || options+=(--find-links "$wheels")
  if grep -q '^torch==.*+cpu' "$list"; then
    if [ -n "$found" ]; then options+=(--no-index); else options+=(--default-index "$TORCH_CPU_INDEX"); fi
  fi
  if grep -q '^tensorrt' "$list"; then options+=(--index "$NVIDIA_INDEX"); fi
  if grep -q '^tensorrt-llm=' "$list"; then return; fi
  options+=(--no-deps --only-binary :all:)
  if grep -q -e --hash= "$list"; then options+=(--require-hashes); fi
}

install_list() {
  local options
  look_in
  [ -x "$target/bin/python" ] || "$uv" venv --quiet --python "$python" "$target"
  "$uv" pip install --quiet --python "$target/bin/python" "${options[@]}" --requirement "$list"
}

store_once() {
  local other
  for other in "$(dirname "$target")"/*/; do
    if [ -x "$other/bin/python" ] && [ "${other%/}" != "$target" ]; then
      "$python" "$here/same_files.py" "$target" "${other%/}"
    fi
  done
}

# TensorRT-LLM is linked to libraries of CUDA 13 and does not say where they lie.
tell_the_loader() {
  local folder
  [ "${target##*/}" = trtllm ] || return 0
  for folder in "$target"/lib/python3*/site-packages/nvidia/cu13/lib; do
    [ ! -d "$folder" ] || echo "$folder" >"$loader/trtllm.conf"
  done
  ldconfig
}

[ -s "$list" ] || exit 0
install_list
"$python" "$here/prune.py" "$target"
store_once
tell_the_loader
"$python" "$here/vllm_metadata.py" "$target"
"$python" "$here/toolkit.py" "$target" "${TOOLKIT:-/opt/cuda}"
# Quiet: some packages carry templates that are no Python.
"$target/bin/python" -m compileall -q -j 0 "$target/lib" >/dev/null 2>&1 || true
