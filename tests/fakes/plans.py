"""Small plans for tests."""

from berth.plan import (
    DialectName,
    DriverState,
    EngineName,
    GpuInventory,
    Launch,
    Limits,
    Listen,
    Logs,
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
