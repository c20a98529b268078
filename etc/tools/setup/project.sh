#!/usr/bin/env bash
# Makes .venv: exactly the packages of uv.lock, checked against its hashes, and this clone as `berth`. Does nothing when
# that is done already. The lock names packages, not places: they come from the index that pip is configured for.
set -euo pipefail

cd "$(dirname "$0")/../../.."
started=${SETUP_STARTED:-$(date +%s)}
stamp=.venv/.installed

say() {
  printf '[%3ds] %s\n' "$(($(date +%s) - started))" "$*"
}

wanted() {
  sha256sum pyproject.toml uv.lock etc/tools/setup/project.sh
  pwd # an environment does not survive a move
  echo "${PYTHON:-python3}"
}

is_done() {
  [ -x .venv/bin/python ] && [ "$(wanted)" = "$(cat $stamp 2>/dev/null)" ]
}

install_packages() {
  local uv=etc/tools/setup/uv.sh list=.tools/requirements.txt quiet=()
  [ -t 2 ] || quiet=(--quiet) # progress bars are for terminals
  say "Berth: installing the packages of uv.lock into .venv ..."
  $uv export --quiet --frozen --no-emit-project --output-file $list
  $uv venv --quiet --clear .venv
  $uv pip install "${quiet[@]}" --python .venv/bin/python --require-hashes --requirement $list
  $uv pip install --python .venv/bin/python --quiet --no-deps --editable .
}

if is_done; then exit 0; fi
mkdir -p .tools
exec 8>.tools/project.lock
flock 8
if is_done; then exit 0; fi
[ -x .tools/uv/bin/uv ] || say "setup: installing uv into .tools ..."
install_packages
wanted >$stamp
say "Berth: installed."
