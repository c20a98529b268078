"""The table of environment variables: parser, default, allowed values and description of each."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from berth.boot.config import parsers
from berth.boot.config.api_keys import parse_api_keys
from berth.boot.config.models import parse_models
from berth.boot.config.nodes import LEAST_KEY, LIST_ALLOWED, MOST_NODES, parse_nodes, parse_nodes_key
from berth.boot.config.routes import parse_routes


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvVar:
    """One variable. `parse` raises ValueError with the reason, or ConfigError with several problems."""

    name: str
    field: str  # of Settings
    group: str
    parse: Callable[[str], Any]
    default: str | None = None  # None: no default, and the field of Settings stays empty
    secret: bool = False  # never shown
    required: bool = False
    from_file: bool = False  # NAME_FILE names a file that holds the value
    allowed: str
    example: str
    description: str

    @property
    def file_name(self) -> str:
        return f"{self.name}_FILE"


_DURATIONS = "a duration (90s, 15m, 1h30m)"
_MODELS = partial(EnvVar, group="Models")
_NETWORK = partial(EnvVar, group="Network and paths")
_ACCESS = partial(EnvVar, group="Access")
_LIMIT = partial(EnvVar, group="Limits", parse=parsers.positive_duration, allowed=f"{_DURATIONS} above 0")
_FAILURE = partial(EnvVar, group="Failures")
_LOG = partial(EnvVar, group="Logs")
_TRACE = partial(EnvVar, group="Traces")
_PROTOCOL = "http/protobuf"

VARIABLES: tuple[EnvVar, ...] = (
    _MODELS(
        name="BERTH_MODELS",
        field="models",
        parse=parse_models,
        required=True,
        from_file=True,
        allowed="`[NAME=]SOURCE[@ENGINE[,ENGINE...]]`, several separated by white space; or YAML",
        example="Qwen/Qwen3-8B",
        description="The models to serve. A source is a Hugging Face id, a local path, or the URL of an attached "
        "engine. Engines are vllm, sglang, trtllm and sim.",
    ),
    _MODELS(
        name="BERTH_ENGINES",
        field="engines",
        parse=parsers.engine_order,
        default="vllm,sglang,trtllm",
        allowed="one or more of vllm, sglang, trtllm, each once",
        example="sglang,vllm",
        description="The engines that Berth may choose from for a model without `engines`, in order of preference.",
    ),
    _MODELS(
        name="BERTH_GPU_MEMORY_FRACTION",
        field="gpu_memory_fraction",
        parse=parsers.fraction(0.1, 1.0),
        default="0.9",
        allowed="a number from 0.1 to 1",
        example="0.8",
        description="The share of each GPU's memory that Berth may allocate.",
    ),
    _MODELS(
        name="BERTH_ROUTES",
        field="routes",
        parse=parse_routes,
        from_file=True,
        allowed="a list of rules, in YAML or JSON",
        example="[{path: /batch, engine: vllm, priority: low}]",
        description="[Rules](routes.md) that send requests to an engine or model, or give them a priority: by path, "
        "parameter, key, header, length of the prompt, or name of the model. The first that matches decides.",
    ),
    _MODELS(
        name="BERTH_CATALOGUE",
        field="catalogue",
        parse=parsers.absolute_path,
        allowed="a path, absolute or relative to the current directory",
        example="/data/catalogue.yaml",
        description="A file of facts about models, in YAML or JSON, that adds to Berth's catalogue and wins over it.",
    ),
    _MODELS(
        name="BERTH_OFFLINE",
        field="offline",
        parse=parsers.boolean,
        default="0",
        allowed="1, 0, true, false, yes, no, on, off",
        example="1",
        description="Download nothing: models must be in the data directory's cache, or be local paths.",
    ),
    _MODELS(
        name="HF_TOKEN",
        field="hf_token",
        parse=parsers.secret,
        secret=True,
        from_file=True,
        allowed="printable ASCII without white space",
        example="hf_...",
        description="The Hugging Face token, for gated models.",
    ),
    _MODELS(
        name="BERTH_AFFINITY",
        field="affinity",
        parse=parsers.boolean,
        default="1",
        allowed="1, 0, true, false, yes, no, on, off",
        example="0",
        description=(
            "Session affinity for models with several serving engines (`standby: hot`): a conversation stays on one "
            "engine, to use its prefix cache, unless that engine is much busier than the others."
        ),
    ),
    _MODELS(
        name="BERTH_FORK_ENGINES",
        field="fork_engines",
        parse=parsers.choice("auto", "on", "off"),
        default="auto",
        allowed="auto, on, off",
        example="off",
        description="Import vLLM once, and [fork](several-models.md#starts) each of its engines from that, where a "
        "model is loaded on request. auto: on the CPU; on: on GPUs too; off: never.",
    ),
    _MODELS(
        name="BERTH_REVISION",
        field="revision",
        parse=parsers.choice("latest", "env"),
        default="latest",
        allowed="latest, env",
        example="env",
        description=(
            "What is started while a model's entry in BERTH_MODELS is unchanged: the revision that was promoted last, "
            "or what the entry says (`env`), whatever was migrated since. A changed entry always wins."
        ),
    ),
    _NETWORK(
        name="BERTH_HOST",
        field="host",
        parse=parsers.host,
        default="0.0.0.0",
        allowed="an IPv4 or IPv6 address, or a host name",
        example="127.0.0.1",
        description="The address to listen on.",
    ),
    _NETWORK(
        name="BERTH_PORT",
        field="port",
        parse=parsers.port,
        default="8000",
        allowed="1 to 65535",
        example="8000",
        description="The port to listen on.",
    ),
    _NETWORK(
        name="BERTH_TLS_CERT",
        field="tls_cert",
        parse=parsers.absolute_path,
        allowed="a path, absolute or relative to the current directory",
        example="/run/secrets/fullchain.pem",
        description="The server's certificate, followed by those of its issuers, as PEM: clients then use https, with "
        "HTTP/2 or HTTP/1.1. A renewed file is served with by itself.",
    ),
    _NETWORK(
        name="BERTH_TLS_KEY",
        field="tls_key",
        parse=parsers.absolute_path,
        allowed="a path, absolute or relative to the current directory",
        example="/run/secrets/privkey.pem",
        description="The private key of the certificate, as PEM without a password.",
    ),
    _NETWORK(
        name="BERTH_WORKERS",
        field="workers",
        parse=parsers.workers,
        default="auto",
        allowed="auto, or 1 to 64",
        example="2",
        description="The number of router processes. auto: half of the container's CPUs, between 1 and 4.",
    ),
    _NETWORK(
        name="BERTH_NODES",
        field="nodes",
        parse=parse_nodes,
        allowed=LIST_ALLOWED,
        example="10.0.0.1,10.0.0.2",
        description="The boxes that [work together](nodes.md) on models with `nodes`, the same list on each of them. "
        "The first is the head, which serves these models.",
    ),
    _NETWORK(
        name="BERTH_NODE",
        field="node",
        parse=parsers.whole_number(0, MOST_NODES - 1),
        allowed="the place of this box in BERTH_NODES, from 0",
        example="1",
        description="Which of them this box is. Not set: the one whose address it has.",
    ),
    _NETWORK(
        name="BERTH_NODES_KEY",
        field="nodes_key",
        parse=parse_nodes_key,
        secret=True,
        from_file=True,
        allowed=f"printable ASCII without white space, at least {LEAST_KEY} characters",
        example="key-of-the-boxes",
        description="The secret with which the boxes sign their messages, the same on each of them.",
    ),
    _NETWORK(
        name="BERTH_DATA",
        field="data_dir",
        parse=parsers.absolute_path,
        default="/data",
        allowed="a path, absolute or relative to the current directory",
        example="/data",
        description="Persistent data: downloaded models and the engines' caches.",
    ),
    _NETWORK(
        name="BERTH_RUN_DIR",
        field="run_dir",
        parse=parsers.socket_dir,
        default="/run/berth",
        allowed=f"a path of up to {parsers.LONGEST_SOCKET_BYTES - len('/supervisor.sock')} bytes without control "
        "characters, ';' and '\"', absolute or relative to the current directory",
        example="/run/berth",
        description="Runtime files: plan, state, sockets, logs. Each running Berth needs its own.",
    ),
    _NETWORK(
        name="BERTH_ENGINE_HOME",
        field="engine_home",
        parse=parsers.absolute_path,
        default="/opt/engines",
        allowed="a path, absolute or relative to the current directory",
        example="./.engines",
        description="The folder of the engines' environments: `<home>/<engine>/bin/python`.",
    ),
    _ACCESS(
        name="BERTH_API_KEYS",
        field="api_keys",
        parse=parse_api_keys,
        secret=True,
        from_file=True,
        allowed="keys of printable ASCII, separated by commas or white space; or YAML: a mapping from names to keys",
        example="key-of-alice,key-of-bob",
        description="The keys that clients may use: `Authorization: Bearer KEY` or `x-api-key: KEY`. With "
        "[names](keys.md) they have models, limits and usage of their own. Not set: no key is required.",
    ),
    _ACCESS(
        name="BERTH_OPEN_TO",
        field="open_to",
        parse=parsers.open_to,
        default="private",
        allowed="private, all, none",
        example="all",
        description="Without BERTH_API_KEYS: the clients that are served. private: those with addresses of this "
        "machine and of private networks. all: everybody who reaches the port. none: Berth does not start without "
        "keys.",
    ),
    _ACCESS(
        name="BERTH_TRUSTED_PROXIES",
        field="trusted_proxies",
        parse=parsers.networks,
        default="none",
        allowed="none, or addresses and networks (10.0.0.0/8), separated by commas or white space",
        example="172.18.0.0/16",
        description="Without BERTH_API_KEYS: the reverse proxies that name the clients' addresses in X-Forwarded-For "
        "or Forwarded. Requests with these headers from others are rejected.",
    ),
    _ACCESS(
        name="BERTH_ADMIN_KEY",
        field="admin_key",
        parse=parsers.secret,
        secret=True,
        from_file=True,
        allowed="printable ASCII without white space, not one of BERTH_API_KEYS",
        example="key-of-the-operator",
        description=(
            "The key for [operations](operations.md) over the network: load, unload, sleep, wake, restart models. Not "
            "set: `/admin` does not exist; the command line in the container needs no key."
        ),
    ),
    _ACCESS(
        name="BERTH_FETCH_HOSTS",
        field="fetch_hosts",
        parse=parsers.fetch_hosts,
        default="public",
        allowed="public, none, or names of hosts and IPv4 addresses, separated by commas or white space",
        example="images.example.org,10.0.0.5",
        description="The hosts, private ones too, from which engines may fetch the images, audio and videos that "
        "requests refer to. public: hosts with public addresses only. With BERTH_OFFLINE=1 none.",
    ),
    _ACCESS(
        name="BERTH_CORS_ORIGINS",
        field="cors_origins",
        parse=parsers.origins,
        default="local",
        allowed="local, none, *, or origins as scheme://host or scheme://host:port, with * for any text, separated by "
        "commas or white space",
        example="local,https://chat.example.org",
        description="The web pages that may use Berth, and without keys also the host names under which Berth may be "
        "requested. local: pages of localhost, browser extensions and desktop applications. *: all.",
    ),
    _LIMIT(
        name="BERTH_MAX_BODY",
        field="max_body_bytes",
        parse=parsers.size,
        default="32MiB",
        allowed="a size (64MiB, 1GB)",
        example="64MiB",
        description="The largest request body: by default the one of Anthropic's API, about 24 MB of pictures. Larger "
        "ones are rejected with 413. All bodies of a worker together may take 32 times as much memory.",
    ),
    _LIMIT(
        name="BERTH_FIRST_TOKEN_TIMEOUT",
        field="first_token_timeout_s",
        default="5m",
        example="90s",
        description="How long an engine may take for the first byte of a response before Berth tries the next one.",
    ),
    _LIMIT(
        name="BERTH_TOKEN_TIMEOUT",
        field="token_timeout_s",
        default="60s",
        example="30s",
        description="How long an engine may be silent within a streamed response.",
    ),
    _LIMIT(
        name="BERTH_QUEUE_TIMEOUT",
        field="queue_timeout_s",
        default="60s",
        example="5m",
        description="How long a request may be queued while every engine of its model is at capacity. Then: 429.",
    ),
    _LIMIT(
        name="BERTH_QUEUE_SIZE",
        field="queue_size",
        parse=parsers.whole_number(0, 100_000),
        default="256",
        allowed="0 to 100000",
        example="1000",
        description="How many requests for one model may be queued. Further ones are rejected with 429.",
    ),
    _LIMIT(
        name="BERTH_CLIENT_STALL_TIMEOUT",
        field="client_stall_timeout_s",
        default="60s",
        example="30s",
        description="How long a client may stall while it sends its request or reads its response.",
    ),
    _LIMIT(
        name="BERTH_DRAIN_TIMEOUT",
        field="drain_timeout_s",
        default="10s",
        parse=parsers.duration,
        allowed=_DURATIONS,
        example="30s",
        description="How long running requests may continue after Ctrl-C or SIGTERM.",
    ),
    _FAILURE(
        name="BERTH_START_TIMEOUT",
        field="start_timeout_s",
        parse=parsers.positive_duration,
        default="30m",
        allowed=f"{_DURATIONS} above 0",
        example="1h",
        description="How long an engine may start without progress before the start counts as a failure.",
    ),
    _FAILURE(
        name="BERTH_RESTART_LIMIT",
        field="restart_limit",
        parse=parsers.whole_number(1, 1000),
        default="5",
        allowed="1 to 1000",
        example="3",
        description="After this many failures within BERTH_RESTART_WINDOW an engine has failed permanently.",
    ),
    _FAILURE(
        name="BERTH_RESTART_WINDOW",
        field="restart_window_s",
        parse=parsers.positive_duration,
        default="15m",
        allowed=f"{_DURATIONS} above 0",
        example="1h",
        description="The time window in which failures of an engine are counted.",
    ),
    _LOG(
        name="BERTH_LOG_FORMAT",
        field="log_format",
        parse=parsers.choice("text", "json"),
        default="text",
        allowed="text, json",
        example="json",
        description="Log lines as text or as JSON.",
    ),
    _LOG(
        name="BERTH_LOG_LEVEL",
        field="log_level",
        parse=parsers.choice("debug", "info", "warning", "error"),
        default="info",
        allowed="debug, info, warning, error",
        example="debug",
        description="The minimum level of logged events.",
    ),
    _LOG(
        name="BERTH_REQUEST_LOG",
        field="request_log",
        parse=parsers.boolean,
        default="0",
        allowed="1, 0, true, false, yes, no, on, off",
        example="1",
        description=("Log one line per request: API, engine, attempts, tokens and times, but no content."),
    ),
    _LOG(
        name="BERTH_METRICS_KEY_LABELS",
        field="metrics_key_labels",
        parse=parsers.boolean,
        default="1",
        allowed="1, 0, true, false, yes, no, on, off",
        example="0",
        description="Whether /metrics, which needs no key, has the names of keys. 0: numbers take their place, which "
        "say nothing about people.",
    ),
    _TRACE(
        name="OTEL_EXPORTER_OTLP_ENDPOINT",
        field="otel_endpoint",
        parse=parsers.http_url,
        allowed="an http:// or https:// URL",
        example="http://collector:4318",
        description="The OpenTelemetry collector for traces of requests, at its path /v1/traces. Not set: no traces.",
    ),
    _TRACE(
        name="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        field="otel_traces_endpoint",
        parse=parsers.http_url,
        allowed="an http:// or https:// URL",
        example="http://collector:4318/v1/traces",
        description="The same as the whole URL. It wins over OTEL_EXPORTER_OTLP_ENDPOINT.",
    ),
    _TRACE(
        name="OTEL_EXPORTER_OTLP_PROTOCOL",
        field="otel_protocol",
        parse=str,
        allowed=_PROTOCOL,
        example=_PROTOCOL,
        description="The protocol of the collector. Berth does not speak gRPC: use the HTTP port, often 4318.",
    ),
    _TRACE(
        name="OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        field="otel_traces_protocol",
        parse=str,
        allowed=_PROTOCOL,
        example=_PROTOCOL,
        description="The same, for traces only.",
    ),
    _TRACE(
        name="OTEL_EXPORTER_OTLP_HEADERS",
        field="otel_headers",
        parse=str,
        secret=True,
        from_file=True,
        allowed="NAME=VALUE, several separated by commas",
        example="authorization=Bearer%20...",
        description="Headers for the collector, such as its key.",
    ),
    _TRACE(
        name="OTEL_SERVICE_NAME",
        field="otel_service_name",
        parse=str,
        default="berth",
        allowed="a name",
        example="gpu7",
        description="The name of this Berth in traces.",
    ),
    _TRACE(
        name="OTEL_TRACES_SAMPLER",
        field="otel_sampler",
        parse=parsers.choice(*parsers.SAMPLERS),
        default="parentbased_always_on",
        allowed=", ".join(parsers.SAMPLERS),
        example="parentbased_traceidratio",
        description="Which requests have spans. parentbased: where a client sends a traceparent, that decides.",
    ),
    _TRACE(
        name="OTEL_TRACES_SAMPLER_ARG",
        field="otel_sampler_ratio",
        parse=parsers.fraction(0.0, 1.0),
        default="1",
        allowed="a number from 0 to 1",
        example="0.1",
        description="The share of requests that a traceidratio sampler takes.",
    ),
    _TRACE(
        name="OTEL_SDK_DISABLED",
        field="otel_disabled",
        parse=parsers.boolean,
        default="0",
        allowed="1, 0, true, false, yes, no, on, off",
        example="true",
        description="No traces, whatever else is set.",
    ),
)
