#!/usr/bin/env bash
# Makes an environment for each engine that is named: `install.sh ENGINE...`, from <engine>.txt beside this file into
# $ENGINE_HOME/<engine> (/opt/engines/<engine>). Without a name it does nothing: a Berth that attaches other engines.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
uv=$here/../setup/uv.sh
home=${ENGINE_HOME:-/opt/engines}

is_engine() {
  [ -f "$here/$1.txt" ]
}

for engine in "$@"; do
  if ! is_engine "$engine"; then
    echo "install.sh: '$engine' is no engine. There are: $(cd "$here" && echo ./*.txt | sed 's:\./::g; s:\.txt::g')" >&2
    exit 64
  fi
done

mkdir -p "$home"
for engine in "$@"; do
  echo "installing $engine into $home/$engine ..."
  "$uv" venv --quiet --clear "$home/$engine"
  "$uv" pip install --python "$home/$engine/bin/python" --requirement "$here/$engine.txt"
done
