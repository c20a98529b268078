"""The times of an engine under load, in virtual time: each follows from the model."""

import pytest

from berth.sim.load.batch import Batch, LoadModel, Running

PROMPT = tuple(range(100, 1124))  # 64 blocks


def played(batch: Batch) -> float:
    """All steps until nothing is left to do, in seconds."""
    spent = 0.0
    while (step_s := batch.begin()) is not None:
        spent += step_s
        batch.end()
    return spent


@pytest.mark.parametrize("count", [1, 16, 64])
def test_time_between_tokens_grows_with_the_requests_that_run(count: int) -> None:
    batch = Batch(LoadModel(itl_s=0.01, itl_per_running_s=0.0005))
    for _ in range(count):
        batch.add(PROMPT, 11)
    assert played(batch) == pytest.approx(10 * (0.01 + 0.0005 * count))


def test_prompts_are_computed_one_after_the_other() -> None:
    batch = Batch(LoadModel(prefill_rate=10_240))
    first, second = batch.add(PROMPT, 1), batch.add(PROMPT + PROMPT, 1)
    took = [batch.begin(), batch.end(), batch.begin(), batch.end()]
    assert took == [pytest.approx(0.2), [first], pytest.approx(0.1), [second]]  # 2048 tokens in a step
    assert batch.begin() is None


def test_prompt_delays_those_that_decode() -> None:
    batch = Batch(LoadModel(itl_s=0.01, prefill_rate=10_240))
    batch.add((1,), 3)
    batch.begin()
    batch.end()
    batch.add(PROMPT, 2)
    assert batch.begin() == pytest.approx(0.11)


def test_request_waits_for_room_in_the_cache_and_first_come_is_first_served() -> None:
    batch = Batch(LoadModel(kv_tokens=2100))
    large, larger, small = batch.add(PROMPT, 10), batch.add(PROMPT, 100), batch.add((1,), 1)
    batch.begin()
    assert (batch.running, list(batch.waiting)) == ([large], [larger, small])
    batch.remove(large)
    batch.begin()
    assert batch.running == [larger, small]


def test_request_that_is_too_large_for_the_cache_runs_alone() -> None:
    batch = Batch(LoadModel(kv_tokens=10))
    batch.add(PROMPT, 1)
    played(batch)
    assert not batch.running


def test_places_are_limited() -> None:
    batch = Batch(LoadModel(max_running=2, itl_s=0.01))
    for _ in range(4):
        batch.add((1,), 11)
    assert played(batch) == pytest.approx(0.2)


def test_known_beginning_of_a_prompt_needs_no_time() -> None:
    batch = Batch(LoadModel(prefill_rate=1024, prefix_cache=True))
    times, cached = [], []
    for prompt in (PROMPT, PROMPT, (*PROMPT[:512], *PROMPT), (*PROMPT[:513], 7, *PROMPT)):
        one = batch.add(prompt, 1)
        times.append(played(batch))
        cached.append(one.cached)
    assert cached == [0, 1023, 512, 512]
    assert times == [
        pytest.approx((1024 - 0) / 1024),
        pytest.approx(1 / 1024),
        pytest.approx(1),
        pytest.approx(1026 / 1024),
    ]
    batch.cache.clear()
    assert batch.cache.cached(PROMPT) == 0


def test_prefix_cache_is_limited() -> None:
    batch = Batch(LoadModel(kv_tokens=2048, prefix_cache=True))
    for start in range(4):
        batch.add(tuple(token + start for token in PROMPT), 1)
        played(batch)
    assert [batch.cache.cached(tuple(token + start for token in PROMPT)) for start in range(4)] == [0, 0, 1023, 1023]


def test_jitter_is_seeded_and_has_the_mean_of_one() -> None:
    def spent(seed: int) -> float:
        batch = Batch(LoadModel(itl_s=0.01, jitter=0.3, seed=seed))
        batch.add((1,), 4001)
        return played(batch)

    assert spent(1) == spent(1) != spent(2)
    assert spent(1) == pytest.approx(40, rel=0.02)


def test_removal_of_a_request_that_waits_runs_or_is_over() -> None:
    batch = Batch(LoadModel(max_running=1))
    first, second = batch.add((1,), 5), batch.add((1,), 5)
    batch.begin()
    for one in (second, first, Running(prompt=(), tokens_due=1)):
        batch.remove(one)
    assert [one.tokens for one in batch.end()] == [1]
    assert batch.begin() is None
