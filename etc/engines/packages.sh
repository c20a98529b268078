#!/usr/bin/env bash
# Installs the system's packages for the image: `packages.sh ENGINE...`. For Ubuntu 24.04 and Debian 12.
set -euo pipefail

# curl: health checks. tini: takes the place of init. The rest: engines compile kernels while they start.
packages=(ca-certificates curl tini python3 python3-venv python3-dev gcc g++ ninja-build libnuma1)

# From NVIDIA's package source, which its base images know: the compiler, and the libraries that TensorRT-LLM is linked to.
cuda=(cuda-nvcc-13-0 cuda-cudart-dev-13-0 cuda-nvrtc-dev-13-0 libcublas-dev-13-0 libcurand-dev-13-0)

is_known() {
  apt-cache show "$1" >/dev/null 2>&1
}

main() {
  local engine package
  apt-get update
  for engine in "$@"; do
    if [ "$engine" = trtllm ]; then packages+=(openmpi-bin); fi
  done
  for package in "${cuda[@]}"; do
    if is_known "$package"; then packages+=("$package"); fi
  done
  DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${packages[@]}"
  rm -rf /var/lib/apt/lists/*
}

main "$@"
