"""Changes while Berth serves: by the command line and over the network, without a cut request."""

import contextlib
import io
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import ollama
import psutil
import pytest

from berth.cli.main import COMMANDS, parser
from berth.errors import BerthError
from tests.e2e.appliance import Appliance, end, joined, sim_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
KEY = "key-of-the-operator"
TOKENS, ITL_S = 60, 0.1
ENDLESS = 100 * TOKENS  # tokens of a stream that is cut


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def shared(adapters: Path) -> Iterator[Appliance]:
    fields = {"sleep": "true", "adapter_slots": "1", "adapter_folder": str(adapters)}
    with Appliance(
        sim_models("m", f"vllm --itl {ITL_S:g}s", **fields), BERTH_WORKERS="2", BERTH_ADMIN_KEY=KEY
    ) as berth:
        yield berth.wait_ready()


@pytest.fixture
def berth(shared: Appliance) -> Appliance:
    """Whatever was asked of the model before: it is loaded."""
    code, text = run(shared, "load", "m", "--wait", "60")
    assert code == 0, text
    return shared


def run(berth: Appliance, *arguments: str) -> tuple[int, str]:
    """The exit code, and all that it wrote. In this process: a new one takes longer than a stream on a busy machine."""
    options, written = parser().parse_args(arguments), io.StringIO()
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(written):
        try:
            code = COMMANDS[options.command](options, berth.environ)
        except BerthError as error:
            written.write(str(error))
            code = error.exit_code
    return code, written.getvalue()


def status(berth: Appliance) -> str:
    return str(berth.replicas()["m-sim"]["status"])


class Stream:
    """A response of some seconds, read in a thread. Whatever it fails by is raised where it is waited for."""

    def __init__(self, berth: Appliance, tokens: int = TOKENS) -> None:
        self.lines: list[str] = []
        self._readers = ThreadPoolExecutor(1)
        self._read = self._readers.submit(self._lines_of, berth, tokens)
        berth.wait(lambda: len(self.lines) > 2 or self._read.done())
        assert not self._read.done(), self.finished()

    def _lines_of(self, berth: Appliance, tokens: int) -> None:
        hello = [{"role": "user", "content": "x"}]
        body = {"model": "m", "messages": hello, "stream": True, "max_tokens": tokens}
        with berth.http.stream("POST", "/v1/chat/completions", json=body, timeout=60) as response:
            self.lines.extend(line for line in response.iter_lines() if line)

    def finished(self) -> list[str]:
        self._readers.shutdown(wait=False)
        self._read.result(60)
        return self.lines


def admin(berth: Appliance, method: str, path: str, key: str = KEY, **change: object) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return berth.http.request(method, path, headers=headers, json=change or None)


@pytest.mark.parametrize(("action", "ends"), [("unload", "unloaded"), ("sleep", "asleep"), ("restart", "ready")])
def test_running_stream_is_finished_first(berth: Appliance, action: str, ends: str) -> None:
    """The engine is stopped meanwhile: no machine is so slow that the stream is over before."""
    restarts = berth.replicas()["m-sim"]["restarts"]
    stream, engine = Stream(berth), berth.find("sim", "--dialect")
    engine.suspend()
    with ThreadPoolExecutor(1) as others:
        try:
            code, text = run(berth, action, "m")
            assert (code, "running" in text) == (0, True), text
            berth.wait(lambda: status(berth) == "draining")
            other = others.submit(berth.chat, "m", max_tokens=1)
            if action != "restart":
                assert other.result(30).status_code == 503
        finally:
            engine.resume()
        assert other.result(60).status_code == (200 if action == "restart" else 503)

    assert stream.finished()[-1] == "data: [DONE]"
    assert not any('"error"' in line for line in stream.lines)
    berth.wait(lambda: status(berth) == ends)
    assert berth.replicas()["m-sim"]["restarts"] == restarts + (action == "restart")


def test_restart_loses_no_request_of_a_model_with_one_engine(berth: Appliance) -> None:
    codes: list[int] = []
    ends = threading.Event()

    def client() -> None:
        while not ends.is_set():
            codes.append(berth.chat("m", max_tokens=3).status_code)

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    restarts, before = 0, berth.replicas()["m-sim"]["restarts"]
    while restarts < 2 or len(codes) <= 20:
        assert run(berth, "restart", "m", "--wait", "60")[0] == 0
        restarts += 1
    ends.set()
    joined(threads, 30)
    assert berth.replicas()["m-sim"]["restarts"] == before + restarts
    assert set(codes) == {200}


def test_unloaded_model_is_absent_until_it_is_loaded(berth: Appliance) -> None:
    unloads = 'berth_model_changes_total{change="unload",model="m",why="operator"}'
    before = berth.get("/metrics").text
    assert run(berth, "unload", "m", "--wait", "30")[0] == 0
    answer = berth.chat("m")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_not_loaded")
    assert "berth load" in answer.json()["error"]["message"]
    assert berth.get("/ready").status_code == 200
    assert berth.get("/ready?model=m").status_code == 503
    assert run(berth, "status")[0] == 0
    metrics = berth.get("/metrics").text
    assert 'berth_model_away{model="m"} 1.0' in metrics
    numbers = [float(line.split()[-1]) for text in (before, metrics) for line in text.splitlines() if unloads in line]
    assert numbers[-1:] == [sum(numbers[:-1]) + 1]
    start = berth.replicas()["m-sim"]["start"]
    assert (start["how"], start["seconds"]) == ("load", round(sum(start["phases"].values()), 2))

    assert run(berth, "load", "m", "--wait", "30")[0] == 0
    assert berth.chat("m", max_tokens=1).status_code == 200


def test_sleeping_model_keeps_its_process(berth: Appliance) -> None:
    engine = berth.find("sim", "--dialect").pid
    assert run(berth, "sleep", "m", "--wait", "30")[0] == 0
    assert run(berth, "wake", "m", "--wait", "30")[0] == 0
    assert (berth.chat("m", max_tokens=1).status_code, berth.find("sim", "--dialect").pid) == (200, engine)


def test_drain_has_an_end(berth: Appliance) -> None:
    stream = Stream(berth, ENDLESS)
    assert run(berth, "unload", "m", "--drain", "0.5", "--wait", "30")[0] == 0
    assert any('"error"' in line for line in stream.finished())


def test_adapters_of_a_watched_folder_come_and_go(berth: Appliance, adapters: Path) -> None:
    def listed() -> list[str]:
        return [model["id"] for model in berth.get("/v1/models").json()["data"]]

    for name, kind in (("law", "LORA"), ("odd", "IA3")):
        folder = adapters / name
        folder.mkdir()
        (folder / "adapter_model.bin").write_bytes(b"x")
        (folder / "adapter_config.json").write_text(json.dumps({"r": 8, "peft_type": kind}))
    berth.wait(lambda: listed() == ["m", "law"])
    berth.wait(lambda: "loaded in m-sim" in run(berth, "adapters", "m")[1])
    assert berth.chat("law", max_tokens=1).status_code == 200
    berth.wait(lambda: "not added: it is not a LoRA adapter but 'IA3'" in run(berth, "adapters", "m")[1])

    (adapters / "law").rename(adapters / ".law")
    berth.wait(lambda: listed() == ["m"])
    assert berth.chat("law", max_tokens=1).status_code == 404
    assert berth.chat("m", max_tokens=1).status_code == 200


def test_denials_say_why(berth: Appliance) -> None:
    run(berth, "pin", "m")
    for arguments, reason in [
        (("unload", "m"), "was pinned by the command line"),
        (("sleep", "m", "--dry-run"), "`berth unpin m`"),
        (("wake", "other"), "Models: m."),
        (("cancel", "0000"), "is not known"),
    ]:
        code, text = run(berth, *arguments)
        assert (code, reason in text) == (4, True), text
    run(berth, "unpin", "m")
    code, text = run(berth, "unload", "m", "--dry-run")
    assert (code, "m-sim: ready -> unloaded" in text) == (0, True)
    assert status(berth) == "ready"


@pytest.fixture
def slow() -> Iterator[Appliance]:
    with Appliance(sim_models("m", "vllm --itl 600ms")) as berth:
        yield berth.wait_ready()


def test_operation_survives_control_and_can_be_cancelled(slow: Appliance) -> None:
    berth, stream = slow, Stream(slow)
    text = run(berth, "unload", "m", "--json")[1]
    number = json.loads(text)["operation"]["id"]
    assert run(berth, "unload", "m", "--json")[1].count(number) == 1
    assert run(berth, "restart", "m")[0] == 4
    berth.wait(lambda: status(berth) == "draining")
    before = berth.state().control_pid
    end(psutil.Process(before))

    assert f"{number} unload m  running" in run(berth, "operations", number)[1]
    berth.wait(lambda: berth.state().control_pid != before)
    berth.wait(lambda: berth.state().replicas[0].status == "draining")  # its first state says what it does not know yet
    assert run(berth, "cancel", number)[0] == 0
    berth.wait(lambda: status(berth) == "ready")
    assert stream.finished()[-1] == "data: [DONE]"
    assert berth.chat("m", max_tokens=1).status_code == 200
    assert "draining -> ready" in run(berth, "events")[1]


def test_the_network_needs_the_admin_key(berth: Appliance) -> None:
    assert admin(berth, "GET", "/admin/operations", key="other").status_code == 401
    assert admin(berth, "POST", "/admin/operations", action="eat", model="m").status_code == 400
    assert admin(berth, "POST", "/admin/operations?wait=x", action="load", model="m").status_code == 400
    assert admin(berth, "POST", "/admin/operations", action="load", model="x").status_code == 404

    dry = admin(berth, "POST", "/admin/operations", action="unload", model="m", dry_run=True)
    assert (dry.status_code, dry.json()["steps"][0]["to"], status(berth)) == (200, "unloaded", "ready")
    done = admin(berth, "POST", "/admin/operations?wait=30", action="unload", model="m")
    assert (done.status_code, done.json()["operation"]["state"]) == (200, "done")
    number = done.json()["operation"]["id"]
    assert (
        admin(berth, "GET", f"/admin/operations/{number}").json()["operation"]["by"].startswith("the admin API from ")
    )
    assert admin(berth, "DELETE", f"/admin/operations/{number}").status_code == 409
    assert admin(berth, "GET", "/admin/operations/none").status_code == 404
    events = admin(berth, "GET", "/admin/events").json()["events"]
    after = admin(berth, "GET", f"/admin/events?after={events[-2]['id']}").json()["events"]
    assert after[:1] == events[-1:]  # others may have come meanwhile
    started = admin(berth, "POST", "/admin/operations", action="load", model="m")
    assert (started.status_code, started.json()["operation"]["state"]) == (202, "running")


def test_without_an_admin_key_the_paths_do_not_exist() -> None:
    with Appliance(sim_models("m", "vllm")) as berth:
        berth.wait(lambda: berth.get("/health").status_code == 200)
        assert admin(berth, "GET", "/admin/operations").status_code == 404


def test_first_request_loads_a_model_and_idle_time_unloads_it() -> None:
    models = sim_models("m", "vllm --load-time 2s", load="on_request", idle_unload="3s")
    with Appliance(models, BERTH_WORKERS="2") as berth:
        berth.wait(lambda: status(berth) == "unloaded")
        assert berth.get("/ready").status_code == 200
        assert [model["id"] for model in berth.get("/v1/models").json()["data"]] == ["m"]
        assert status(berth) == "unloaded"

        answers: list[int] = []
        threads = [threading.Thread(target=lambda: answers.append(berth.chat("m").status_code)) for _ in range(5)]
        for thread in threads:
            thread.start()
        joined(threads, 60)
        assert answers == [200] * 5
        berth.wait(lambda: "load m  done" in run(berth, "operations")[1])

        berth.wait(lambda: status(berth) == "unloaded")
        assert berth.chat("m").status_code == 200
        ollama_decides_how_long_it_stays(berth)
        run(berth, "unload", "m", "--wait", "30")
        hello = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
        refused = berth.http.post("/v1/chat/completions", json=hello, headers={"x-berth-load": "no"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_loading")
        assert status(berth) == "unloaded"


def ollama_decides_how_long_it_stays(berth: Appliance) -> None:
    """Judged by its official client."""
    with ollama.Client(berth.url, timeout=60) as client:
        assert client.chat("m", [{"role": "user", "content": "x"}], keep_alive=-1).done
        berth.wait(lambda: expires_in_s(client) > 1e9)
        assert client.generate("m", keep_alive=0).done_reason == "unload"
        berth.wait(lambda: status(berth) == "unloaded")
        assert not client.ps().models
        assert client.generate("m", keep_alive="1h").done_reason == "load"
        assert status(berth) == "ready"
        berth.wait(lambda: 3500 < expires_in_s(client) <= 3601)


def expires_in_s(client: ollama.Client) -> float:
    (model,) = client.ps().models
    assert model.expires_at is not None
    return model.expires_at.timestamp() - time.time()
