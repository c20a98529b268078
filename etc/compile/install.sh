#!/usr/bin/env bash
# Builds the wheel as the image does, with compiled modules, and unpacks it into .compiled, unless nothing has changed.
set -euo pipefail
cd "$(dirname "$0")/../.."

wanted() {
  find berth etc/compile pyproject.toml uv.lock -type f ! -name '*.pyc' ! -name _version.py -print0 | sort -z | xargs -0 sha256sum
  .venv/bin/python --version
}

stamp=.compiled/.sources
if [ "$(wanted)" = "$(cat $stamp 2>/dev/null)" ]; then exit 0; fi
uv=etc/tools/setup/uv.sh
rm -rf .compiled
mkdir -p .compiled/dist
$uv export --quiet --frozen --no-emit-project --no-hashes --output-file .compiled/constraints.txt
COMPILE=1 $uv build --quiet --wheel --python .venv/bin/python --build-constraint .compiled/constraints.txt --out-dir .compiled/dist
$uv pip install --quiet --python .venv/bin/python --no-deps --no-index --compile-bytecode --target .compiled .compiled/dist/*.whl
wanted >$stamp
