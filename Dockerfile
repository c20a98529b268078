# Berth and its engines in one image:
#   docker build -t berth .                              all three engines: tens of GB
#   docker build -t berth --build-arg ENGINES=vllm .     one of them
# Berth lives in /opt/berth, each engine in /opt/engines/<engine>: their versions of torch and CUDA exclude each other.
ARG BASE=nvidia/cuda:13.0.1-base-ubuntu24.04
FROM ${BASE}

SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# What is made first changes least. Engines go straight into this stage: copying them from another would double them.
ARG ENGINES="vllm sglang trtllm"
COPY etc/engines/packages.sh /opt/build/etc/engines/
RUN /opt/build/etc/engines/packages.sh ${ENGINES}

ARG UV_PYTHON=/usr/bin/python3 UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
COPY etc/setup/uv.sh /opt/build/etc/setup/
COPY etc/engines /opt/build/etc/engines
RUN --mount=type=cache,target=/root/.cache /opt/build/etc/engines/install.sh ${ENGINES}

COPY pyproject.toml uv.lock README.md LICENSE /opt/build/
COPY berth /opt/build/berth
WORKDIR /opt/build
RUN --mount=type=cache,target=/root/.cache \
    etc/setup/uv.sh export --quiet --frozen --no-dev --no-emit-project --output-file requirements.txt \
    && etc/setup/uv.sh venv --quiet /opt/berth \
    && etc/setup/uv.sh pip install --quiet --python /opt/berth/bin/python --require-hashes -r requirements.txt \
    && etc/setup/uv.sh pip install --quiet --python /opt/berth/bin/python --no-deps .

# Uid 1000 is taken by the base image's user. Any other uid works too (docker run --user): both directories are open to
# all, as /tmp is, and a new volume takes that over.
RUN groupadd --gid 10001 berth \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home berth \
    && install --directory --mode 1777 /data /run/berth
COPY --chmod=0755 entrypoint.sh /usr/local/bin/entrypoint.sh

# HOME: where an engine writes what it was not told to write elsewhere; a uid without a name would get "/".
ENV PATH=/opt/berth/bin:${PATH} HOME=/data
WORKDIR /data
USER 10001:10001
VOLUME /data
EXPOSE 8000
# curl: a Python that starts for each check costs more CPU than all of Berth when it is idle.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["sh", "-c", "exec curl --fail --silent --max-time 2 --output /dev/null http://127.0.0.1:${BERTH_PORT:-8000}/health"]
ENTRYPOINT ["tini", "--", "entrypoint.sh"]
