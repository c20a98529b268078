#!/usr/bin/env bash
# Runs uv for this clone: `etc/tools/setup/uv.sh ARGUMENT...`. Installs it under .tools/uv when it is not there, and lets it
# use nothing but this machine's Python and the package index that this machine's pip is configured for.
set -euo pipefail

version=0.13.8
tools=$(cd "$(dirname "$0")/../../.." && pwd)/.tools
uv=$tools/uv/bin/uv

fail() {
  printf '\nsetup: %s\n' "$*" >&2
  exit 1
}

find_python() {
  local candidate candidates=(python3 python3.14 python3.13 python3.12 python3.11)
  [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    "$candidate" -c 'import sys; assert sys.version_info >= (3, 11); print(sys.executable)' 2>/dev/null && return
  done
  fail "no Python 3.11 or newer among: ${candidates[*]}." \
    "Install one (Debian, Ubuntu: apt-get install python3 python3-venv) or name it: make run PYTHON=/path/to/python3.12"
}

# Debian's python3 comes without ensurepip; its pip, where that is installed, does as well.
make_environment() {
  "$1" -m venv "$tools/uv" >/dev/null 2>&1 && return
  rm -rf "$tools/uv"
  "$1" -m pip --version >/dev/null 2>&1 ||
    fail "$1 has neither its venv module nor pip. Install them (Debian, Ubuntu: apt-get install python3-venv)."
}

install_uv() {
  local python=$1 into=()
  make_environment "$python"
  if [ -x "$tools/uv/bin/python" ]; then
    python=$tools/uv/bin/python
  else
    into=(--target "$tools/uv")
  fi
  "$python" -m pip install --quiet --disable-pip-version-check "${into[@]}" "uv==$version" ||
    fail "uv $version could not be installed: pip's reason stands above. If the package index cannot be reached," \
      "check the network, or name an index that can: PIP_INDEX_URL=https://... make run"
}

index_of_pip() {
  local python=$tools/uv/bin/python
  [ -x "$python" ] || python=$UV_PYTHON
  "$python" -m pip config get global.index-url 2>/dev/null || true
}

mkdir -p "$tools"
UV_PYTHON=${UV_PYTHON:-$(find_python)}
export UV_PYTHON UV_PYTHON_DOWNLOADS=never
exec 9>"$tools/lock"
flock 9
case $("$uv" --version 2>/dev/null || true) in
"uv $version"*) ;;
*)
  rm -rf "$tools/uv"
  install_uv "$UV_PYTHON"
  ;;
esac
exec 9>&-

index=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$(index_of_pip)}}
[ -z "$index" ] || export UV_DEFAULT_INDEX=$index
[ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE=${SSL_CERT_FILE:-$PIP_CERT}
exec "$uv" "$@"
