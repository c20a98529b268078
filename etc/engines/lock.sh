#!/usr/bin/env bash
# Writes the exact lock <engine>.txt of each engine that is named from what we want of it, <engine>.in, with the hash of
# every file that the index offers: `lock.sh [--upgrade] ENGINE...`. A new version: write it into <engine>.in, run this,
# read the diff. A lock holds for Python 3.11 and newer on Linux, on x86_64 and on aarch64 (TensorRT-LLM's on x86_64
# alone). Whether the index has a wheel for each package there is asked at the end. Two files more, where they are there:
#   <engine>.overrides   replaces what packages demand of each other; each line says why
#   <engine>.extra       is added to the lock as it is: what the index does not have
set -euo pipefail

cd "$(dirname "$0")"
uv=${UV:-../tools/setup/uv.sh}
pythons=(3.11 3.12) # of the bases that an image may have: Debian 12, Ubuntu 24.04
upgrade=()

fail() {
  echo "lock.sh: $*. There are: $(echo ./*.in | sed 's:\./::g; s:\.in::g')" >&2
  exit 64
}

# A dry run: no file is loaded. glibc 2.36 is Debian 12's.
check_wheels() {
  local engine=$1 machine python machines=(x86_64 aarch64) options=(--no-deps --only-binary ":all:" --require-hashes)
  [ "$engine" != trtllm ] || machines=(x86_64)
  for machine in "${machines[@]}"; do
    for python in "${pythons[@]}"; do
      "$uv" pip install --quiet --dry-run "${options[@]}" --target "$nowhere" --python-version "$python" \
        --python-platform "$machine-manylinux_2_36" --requirement "$engine.txt" ||
        { echo "lock.sh: $engine.txt cannot be installed on $machine with Python $python" >&2 && return 1; }
    done
  done
}

lock() {
  local engine=$1 arguments=(--universal --python-version 3.11 --generate-hashes --no-annotate "${upgrade[@]}")
  [ ! -f "$engine.overrides" ] || arguments+=(--overrides "$engine.overrides")
  # such a list is complete: what its packages want besides is left out on purpose
  ! grep -q 'all of it is listed here' "$engine.in" || arguments+=(--no-deps)
  "$uv" pip compile --quiet "${arguments[@]}" --custom-compile-command "etc/engines/lock.sh $engine" \
    --output-file "$engine.txt" "$engine.in" >/dev/null
  check_wheels "$engine"
  [ ! -f "$engine.extra" ] || cat "$engine.extra" >>"$engine.txt"
}

if [ "${1:-}" = --upgrade ]; then
  upgrade=(--upgrade)
  shift
fi
[ $# -gt 0 ] || fail "usage: lock.sh [--upgrade] ENGINE..."
for engine in "$@"; do
  [ -f "$engine.in" ] || fail "there is no $engine.in"
done
nowhere=$(mktemp -d)
trap 'rm -rf "$nowhere"' EXIT
for engine in "$@"; do
  lock "$engine"
done
