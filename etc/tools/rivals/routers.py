"""The routers that are compared, each started as its users start it, in front of the same upstream."""

import secrets
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import berth
from etc.tools.rivals import install
from etc.tools.rivals.frames import MODEL
from etc.tools.rivals.programs import log_file, running
from tests.e2e.appliance import Appliance
from tests.fakes.ports import free_port

_KEY = f"sk-{secrets.token_hex(24)}"  # LiteLLM wants a strong one

NGINX = """\
worker_processes 1;
pid {folder}/pid;
error_log stderr;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  upstream engine {{ server {upstream}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""

LITELLM = """\
model_list:
  - model_name: {model}
    litellm_params: {{model: hosted_vllm/{model}, api_base: "{upstream}/v1", api_key: none}}
litellm_settings: {{telemetry: false}}
general_settings: {{master_key: {key}}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """One that is running."""

    name: str
    version: str
    url: str
    command: str
    key: str = "none"
    roots: tuple[int, ...] = ()  # of the trees of processes that answer the requests
    all_roots: tuple[int, ...] = ()  # those of everything that belongs to it, where that is more


Start = Callable[[str], AbstractContextManager[Router]]  # given the upstream's URL


@contextmanager
def direct(upstream: str) -> Iterator[Router]:
    """No router at all."""
    yield Router(name="direct", version="", url=upstream, command="")


@contextmanager
def berth_with(upstream: str, workers: int = 1, *, home: Path | None = None) -> Iterator[Router]:
    """The whole appliance with an attached engine; keys are checked, nothing is off. `home`: an environment."""
    models = f"{MODEL}: {{engines: [{{url: '{upstream}', dialect: vllm}}]}}"
    variables = {"BERTH_API_KEYS": _KEY, "BERTH_WORKERS": str(workers)}
    name = "berth" if workers == 1 else f"berth, {workers} workers"
    appliance = Appliance(models, **variables)
    if home is not None:
        name += "-compiled"
        appliance.command[0] = str(home / "bin/python")
        appliance.environ["PYTHONSAFEPATH"] = "1"  # not the clone's modules
    with appliance, _log_kept(appliance, f"{name.partition(',')[0]}-{workers}"):
        appliance.wait_ready()
        words = [*(f"{name}={value}" for name, value in {"BERTH_MODELS": models, **variables}.items()), "berth", "boot"]
        yield Router(
            name=name,
            version=berth.__version__,
            url=appliance.url,
            command=shlex.join(words).replace(_KEY, "KEY"),
            key=_KEY,
            roots=(appliance.find("berth", "router").pid,),
            all_roots=(appliance.started().pid,),
        )


def berth_compiled(upstream: str) -> AbstractContextManager[Router]:
    """The same as the image has it."""
    return berth_with(upstream, home=install.berth())


@contextmanager
def _log_kept(appliance: Appliance, name: str) -> Iterator[None]:
    """The appliance's folder goes with it; what it said is put beside the logs of the others."""
    try:
        yield
    finally:
        log_file(name).write_text(appliance.output())


@contextmanager
def vllm_router(upstream: str) -> Iterator[Router]:
    with _rust_router("vllm-router", "vllm_router", upstream) as router:
        yield router


@contextmanager
def sglang_router(upstream: str) -> Iterator[Router]:
    with _rust_router("sglang-router", "sglang_router", upstream) as router:
        yield router


@contextmanager
def _rust_router(name: str, module: str, upstream: str) -> Iterator[Router]:
    """Two forks of one code, with the same options. Round robin is the policy that costs them least."""
    python = install.packages(name) / "bin/python"
    port, metrics_port = free_port(), free_port()
    command = [str(python), "-m", f"{module}.launch_router", "--worker-urls", upstream, "--policy", "round_robin"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(metrics_port)]
    with _started(name, install.version(name), command, port) as router:
        yield router


@contextmanager
def litellm(upstream: str) -> Iterator[Router]:
    home, port = install.packages("litellm"), free_port()
    config = home / "config.yaml"
    config.write_text(LITELLM.format(model=MODEL, upstream=upstream, key=_KEY))
    command = [str(home / "bin/litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_PROXY": "*"}
    with _started("litellm", install.version("litellm"), command, port, key=_KEY, env=env) as router:
        yield router


@contextmanager
def nginx(upstream: str) -> Iterator[Router]:
    program, port = install.nginx(), free_port()
    folder = install.make_home() / "nginx-run"
    folder.mkdir(exist_ok=True)
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, upstream=upstream.removeprefix("http://"), port=port))
    command = [program, "-p", str(folder), "-e", "stderr", "-c", str(config), "-g", "daemon off;"]
    with _started("nginx", _nginx_version(program), command, port) as router:
        yield router


@contextmanager
def _started(
    name: str, version: str, command: list[str], port: int, *, key: str = "none", env: Mapping[str, str] | None = None
) -> Iterator[Router]:
    url = f"http://127.0.0.1:{port}"
    with running(name, command, url, key=key, env=env) as pid:
        shown = shlex.join(command).replace(f"{install.ROOT}/", "")
        yield Router(name=name, version=version, url=url, command=shown, key=key, roots=(pid,))


@contextmanager
def upstream(processes: int = 1) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Its URL and its processes, which share a port."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "etc.tools.rivals.fake_upstream", "--port", str(port)]
    with ExitStack() as stack:
        pids = [stack.enter_context(running(f"upstream-{i}", command, url)) for i in range(processes)]
        yield url, tuple(pids)


def _nginx_version(program: str) -> str:
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
    return Path(said.strip().rpartition(" ")[2]).name


ROUTERS: dict[str, Start] = {
    "direct": direct,
    "berth": berth_with,
    "berth-compiled": berth_compiled,
    "vllm-router": vllm_router,
    "sglang-router": sglang_router,
    "litellm": litellm,
    "nginx": nginx,
}
