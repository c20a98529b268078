"""Small plans for tests."""

from dataclasses import replace

from berth.plan import (
    DialectName,
    DriverState,
    EngineName,
    Gpu,
    GpuInventory,
    Launch,
    Limits,
    Listen,
    Logs,
    MemoryEstimate,
    ModelRoute,
    Plan,
    Probe,
    Replica,
    Restarts,
    RunPaths,
    Task,
)


def make_replica(
    name: str = "chat-sim", *, launch: Launch | None, port: int = 21000, stop_timeout_s: float = 10
) -> Replica:
    """A replica of the model `chat`; without a launch an attached one."""
    return Replica(
        name=name,
        model="chat",
        engine=EngineName.SIM if launch else EngineName.REMOTE,
        dialect=DialectName.VLLM,
        task=Task.GENERATE,
        url=f"http://127.0.0.1:{port}",
        served_name="chat",
        launch=launch,
        ready=Probe(path="/health"),
        alive=Probe(path="/health"),
        stop_timeout_s=stop_timeout_s,
    )


def make_plan(run_dir: str, *replicas: Replica, port: int = 8000, drain_timeout_s: float = 10) -> Plan:
    """A plan on a machine without GPUs."""
    return Plan(
        created=1,
        paths=RunPaths(run_dir=run_dir, data_dir=f"{run_dir}/data"),
        listen=Listen(host="127.0.0.1", port=port, workers=1),
        limits=Limits(
            max_body_bytes=2**20,
            first_token_timeout_s=30,
            token_timeout_s=30,
            queue_timeout_s=30,
            client_stall_timeout_s=30,
            drain_timeout_s=drain_timeout_s,
        ),
        restarts=Restarts(),
        logs=Logs(),
        inventory=GpuInventory(state=DriverState.NO_DRIVER, reason="no NVIDIA driver here"),
        models=(
            ModelRoute(
                name="chat", source="chat", task=Task.GENERATE, replicas=tuple(replica.name for replica in replicas)
            ),
        ),
        replicas=replicas,
        open_access=True,
    )


_VLLM = replace(
    make_replica("chat-vllm", launch=Launch(argv=("vllm", "serve"), env={"A": "%(x)s;"}, files={"/x": "y\n"})),
    model="org/chat é",
    served_name="org/chat é",
    engine=EngineName.VLLM,
    gpus=(0,),
    memory=MemoryEstimate(weights_bytes=3, kv_bytes_per_token=1, kv_bytes=2, overhead_bytes=4, largest_context=8),
)
_GPU = Gpu(
    index=0,
    uuid="GPU-0",
    name="Fake 80GB",
    memory_total_bytes=80 * 2**30,
    memory_free_bytes=79 * 2**30,
    compute_capability="9.0",
)
# One model with an unusual name on vLLM and one GPU; every kind of value is in it.
GPU_PLAN = replace(
    make_plan("/run/berth", _VLLM),
    listen=Listen(host="0.0.0.0", port=8000, workers=1),
    inventory=GpuInventory(state=DriverState.OK, gpus=(_GPU,)),
    models=(ModelRoute(name="org/chat é", source="org/chat", task=Task.GENERATE, replicas=("chat-vllm",)),),
)
