#!/usr/bin/env bash
# A stand-in for the CUDA base image where no registry can be reached: `base.sh DIR IMAGE`. A bare Debian under the
# image's name, without CUDA. What the Dockerfile installs with apt and pip must work on both. DIR is engine.sh's: its
# packages hold the tool, and base.tar is kept there. The Docker CLI must be on PATH, and find its engine.
set -euo pipefail

suite=bookworm
dir=$1 image=$2
tar=$dir/base.tar
certificates=/etc/ssl/certs/ca-certificates.crt
mirror=$(apt-get indextargets --format "\$(SITE)" | sed -n 1p)

# A company's own certificate authority is trusted here already, so it must be within.
trust="mkdir -p \"\$1/usr/local/share/ca-certificates\" \"\$1/etc/uv\"
  && cp $certificates \"\$1/usr/local/share/ca-certificates/host.crt\"
  && chroot \"\$1\" update-ca-certificates >/dev/null 2>&1
  && printf '[global]\ncert = $certificates\n' >\"\$1/etc/pip.conf\"
  && echo 'system-certs = true' >\"\$1/etc/uv/uv.toml\""

if [ ! -s "$tar" ]; then
  "$dir/packages/root/usr/bin/mmdebstrap" --quiet --format=tar --variant=minbase --components=main \
    --keyring=/usr/share/keyrings/debian-archive-keyring.gpg --include=apt,ca-certificates \
    --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --customize-hook="chroot \"\$1\" useradd --uid 1000 --create-home --shell /bin/bash ubuntu" \
    --customize-hook="${trust//$'\n'/}" \
    "$suite" "$tar.part" "${mirror:-http://deb.debian.org/debian}"
  mv "$tar.part" "$tar"
fi

# The real base has a user "ubuntu" with uid 1000, and these variables.
docker import \
  --change 'ENV PATH=/usr/local/nvidia/bin:/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
  --change 'ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility' "$tar" "$image" >/dev/null
