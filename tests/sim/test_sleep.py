import json
from typing import Any

import pytest

from tests.sim.harness import CHAT, Client, Reply, get, running, send_request

TAGS = {"tags": ["kv_cache", "weights", "cuda_graph"]}
RELEASE, RESUME = "/release_memory_occupation", "/resume_memory_occupation"


def post(port: int, path: str, body: Any = None) -> Reply:
    return send_request(port, path, body or {})


def asleep(port: int) -> bool:
    return bool(get(port, "/is_sleeping").json["is_sleeping"])


def test_vllm_serves_requests_from_its_sleep_after_waking() -> None:
    with running("vllm", can_sleep=True) as server, Client(server.port) as client:
        assert post(server.port, "/sleep?level=1").json == {"status": "sleeping", "level": 1}
        assert (asleep(server.port), get(server.port, "/health").status) == (True, 200)
        client.send("POST", "/v1/chat/completions", CHAT)
        assert client.read(silence_s=0.1).end == "silent"
        assert post(server.port, "/wake_up").json == {"status": "awake", "tags": None}
        assert not asleep(server.port)
        assert client.read().status == 200


def test_vllm_accepts_repeated_sleep_and_wake_calls() -> None:
    with running("vllm", can_sleep=True) as server:
        paths = ["/sleep?level=1", "/sleep?level=1", "/wake_up", "/wake_up"]
        assert [post(server.port, path).status for path in paths] == [200] * 4
        assert send_request(server.port, body=CHAT).status == 200


def test_vllm_aborts_running_requests_on_sleep() -> None:
    with running("vllm", can_sleep=True, itl_s=0.05) as server, Client(server.port) as client:
        client.send("POST", "/v1/chat/completions", {**CHAT, "stream": True})
        came = client.socket.recv(65536)
        assert came
        post(server.port, "/sleep?level=1")
        while b'"finish_reason":"abort"' not in came:
            more = client.socket.recv(65536)
            assert more, came
            came += more


def test_vllm_has_sleep_calls_in_development_mode_only() -> None:
    with running("vllm") as server:
        assert [post(server.port, path).status for path in ("/sleep", "/wake_up")] == [404, 404]


def test_sglang_sleeps_and_wakes_without_a_status_page() -> None:
    with running("sglang", can_sleep=True) as server:
        assert post(server.port, RELEASE, TAGS).json is None
        assert get(server.port, "/ready").status == 200
        assert post(server.port, RESUME, TAGS).json is None
        assert send_request(server.port, body=CHAT).status == 200
        assert get(server.port, "/is_sleeping").status == 404


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ([(RESUME, TAGS)], "KeyError"),
        ([(RELEASE, TAGS), ("/v1/chat/completions", CHAT)], "illegal memory access"),
    ],
    ids=["waking what is awake", "a request while it sleeps"],
)
def test_calls_that_crash_sglang(
    calls: list[tuple[str, Any]], words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr("berth.sim.engine.os.kill", lambda *call: killed.append(call))
    with running("sglang", can_sleep=True) as server:
        ends = [post(server.port, path, body).end for path, body in calls]
    assert ends[-1] == "reset"
    assert len(killed) == 1
    assert words in capfd.readouterr().err


def test_sglang_crashes_on_sleep_while_busy(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("berth.sim.engine.os.kill", lambda *_: None)
    with running("sglang", can_sleep=True, itl_s=0.05) as server, Client(server.port) as client:
        client.send("POST", "/v1/chat/completions", {**CHAT, "stream": True})
        assert client.socket.recv(65536)
        assert post(server.port, RELEASE, TAGS).end == "reset"
    assert "only when server is idle" in capfd.readouterr().err


def test_sglang_without_the_option_ignores_sleep_calls() -> None:
    with running("sglang") as server:
        assert [post(server.port, path, TAGS).json for path in (RESUME, RELEASE)] == [None, None]
        assert send_request(server.port, body=CHAT).status == 200


@pytest.mark.parametrize(("dialect", "sleep", "wake"), [("vllm", "/sleep", "/wake_up"), ("sglang", RELEASE, RESUME)])
def test_sleep_and_wake_can_fail_and_hang(dialect: str, sleep: str, wake: str) -> None:
    with running(dialect, "sleep-fails", "wake-fails", can_sleep=True) as server:
        assert [post(server.port, path).status for path in (sleep, wake)] == [500, 500]
        send_request(server.port, "/sim/faults", {"sleep-fails": False, "wake-fails": False, "sleep-hangs": True})
        assert send_request(server.port, sleep, {}, silence_s=0.1).end == "silent"
        send_request(server.port, "/sim/faults", {"sleep-hangs": False, "wake-hangs": True})
        assert post(server.port, sleep).status == 200
        assert send_request(server.port, wake, {}, silence_s=0.1).end == "silent"


def test_lists_sleep_faults() -> None:
    with running("vllm", can_sleep=True) as server:
        faults = json.loads(get(server.port, "/sim/faults").body)["faults"]
        assert {"sleep-fails", "sleep-hangs", "wake-fails", "wake-hangs"} <= faults.keys()


def test_vllm_sleeps_without_weights_and_wakes_in_parts() -> None:
    with running("vllm", can_sleep=True) as server:
        port = server.port
        assert post(port, "/sleep?level=2").json == {"status": "sleeping", "level": 2}
        assert post(port, "/wake_up?tags=weights").json == {"status": "sleeping", "tags": ["weights"]}
        assert asleep(port)
        assert post(port, "/collective_rpc", {"method": "reload_weights"}).json == {"results": [None]}
        assert post(port, "/wake_up?tags=kv_cache").json == {"status": "awake", "tags": ["kv_cache"]}
        assert not asleep(port)
        assert send_request(port, body={**CHAT, "logprobs": True}).status == 200


def test_vllm_that_lost_its_weights_answers_with_garbage() -> None:
    with running("vllm", can_sleep=True) as server:
        post(server.port, "/sleep?level=2")
        post(server.port, "/wake_up")
        replies = [send_request(server.port, body={**CHAT, "logprobs": wanted}) for wanted in (False, True)]
    assert [reply.status for reply in replies] == [200, 500]


@pytest.mark.parametrize(("levels", "answered"), [((1, 2), 200), ((2, 1), 500)])
def test_vllm_keeps_the_way_in_which_it_fell_asleep(levels: tuple[int, int], answered: int) -> None:
    with running("vllm", can_sleep=True) as server:
        assert [post(server.port, f"/sleep?level={level}").status for level in levels] == [200, 200]
        post(server.port, "/wake_up")
        assert send_request(server.port, body={**CHAT, "logprobs": True}).status == answered


def test_vllm_ignores_a_wake_that_names_a_part_which_is_awake() -> None:
    with running("vllm", can_sleep=True) as server:
        post(server.port, "/sleep?level=1")
        post(server.port, "/wake_up?tags=weights")
        path = "/wake_up?tags=weights&tags=kv_cache"
        assert post(server.port, path).json == {"status": "sleeping", "tags": ["weights", "kv_cache"]}
        assert asleep(server.port)
        assert post(server.port, "/wake_up").json == {"status": "awake", "tags": None}


@pytest.mark.parametrize("path", ["/sleep?level=3", "/collective_rpc"])
def test_vllm_refuses_other_levels_and_methods(path: str) -> None:
    with running("vllm", can_sleep=True) as server:
        assert post(server.port, path, {"method": "sing"}).status == 400


def test_vllm_crashes_if_weights_are_reloaded_into_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("berth.sim.engine.os.kill", lambda *_: None)
    with running("vllm", can_sleep=True) as server:
        post(server.port, "/sleep?level=2")
        assert post(server.port, "/collective_rpc", {"method": "reload_weights"}).end == "reset"


def test_paused_sglang_sleeps_over_running_and_new_requests() -> None:
    with running("sglang", can_sleep=True, itl_s=0.02) as server, Client(server.port) as first:
        first.send("POST", "/v1/chat/completions", {**CHAT, "stream": True})
        came = first.socket.recv(65536)
        assert post(server.port, "/pause_generation", {"mode": "retract"}).status == 200
        assert post(server.port, RELEASE, TAGS).status == 200
        with Client(server.port) as second:
            second.send("POST", "/v1/chat/completions", CHAT)
            assert second.read(silence_s=0.1).end == "silent"
            assert post(server.port, RESUME, TAGS).status == 200
            assert post(server.port, "/continue_generation").status == 200
            assert second.read().status == 200
        while b"[DONE]" not in came:
            more = first.socket.recv(65536)
            assert more, came
            came += more
