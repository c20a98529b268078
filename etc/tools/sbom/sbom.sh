#!/usr/bin/env bash
# What Berth's own environment is made of, and what is known against it: `sbom.sh [FOLDER]` writes FOLDER/sbom.json
# (CycloneDX, the same that the image carries as /opt/berth/sbom.json) and FOLDER/vulnerabilities.json (PyPI's
# advisories), into .sbom when no folder is named. It fails when something is known, or a package cannot be looked up.
set -euo pipefail

cd "$(dirname "$0")/../../.."
folder=${1:-.sbom}

mkdir -p "$folder"
etc/tools/setup/uv.sh export --quiet --preview --frozen --no-dev --extra tracing --format cyclonedx1.5 --output-file "$folder/sbom.json" >/dev/null
.venv/bin/python -m etc.tools.sbom.advisories "$folder/sbom.json" "$folder/vulnerabilities.json"
