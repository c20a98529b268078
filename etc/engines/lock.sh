#!/usr/bin/env bash
# Writes the exact lock <engine>.txt of each engine that is named from what we want of it, <engine>.in, with the hash of
# every file that the index offers: `lock.sh [--upgrade] ENGINE...`. A new version: write it into <engine>.in, run this,
# read the diff. The locks hold for Python 3.11 and newer on Linux x86_64. Two files more, where they are there:
#   <engine>.overrides   replaces what packages demand of each other; each line says why
#   <engine>.extra       is added to the lock as it is: what the index does not have
set -euo pipefail

cd "$(dirname "$0")"
uv=../setup/uv.sh
upgrade=()

fail() {
  echo "lock.sh: $*. There are: $(echo ./*.in | sed 's:\./::g; s:\.in::g')" >&2
  exit 64
}

lock() {
  local engine=$1 arguments=(--universal --python-version 3.11 --generate-hashes --no-annotate "${upgrade[@]}")
  [ ! -f "$engine.overrides" ] || arguments+=(--overrides "$engine.overrides")
  # such a list is complete: what its packages want besides is left out on purpose
  ! grep -q 'all of it is listed here' "$engine.in" || arguments+=(--no-deps)
  "$uv" pip compile --quiet "${arguments[@]}" --custom-compile-command "etc/engines/lock.sh $engine" \
    --output-file "$engine.txt" "$engine.in" >/dev/null
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
for engine in "$@"; do
  lock "$engine"
done
