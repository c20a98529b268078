#!/bin/sh
# `install.sh ENGINE DISTRIBUTION VERSION PROGRAM`: an environment of an engine's shape, whose program is the stand-in.
set -eu
home=/opt/engines/$1
/opt/berth/bin/python -m venv --without-pip "$home"
site=$("$home/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
metadata=$site/$(echo "$2" | tr - _)-$3.dist-info
mkdir "$metadata"
printf 'Metadata-Version: 2.4\nName: %s\nVersion: %s\n' "$2" "$3" >"$metadata/METADATA"
{ echo '#!/opt/berth/bin/python'; cat "$(dirname "$0")/engine.py"; } >"$home/bin/$4"
chmod 755 "$home/bin/$4"
