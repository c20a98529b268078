from etc.tools.rivals.tally import Result, Tally


def test_a_result_survives_its_way_between_processes() -> None:
    tally = Tally(requests=2, tokens=3, unfinished=1)
    tally.failures["status 500"] += 2
    tally.first_s.append(0.02)
    tally.gap_s.extend([0.01, 0.03])
    tally.whole_s.append(0.5)
    result = tally.result(wall_s=1.5, cpu_s=0.1)
    assert Result.from_json(result.to_json()) == result
    assert result.first is not None
    assert result.first.p50 == 20.0
    assert result.failures == {"status 500": 2}


def test_of_whole_answers_the_first_token_is_the_end() -> None:
    tally = Tally()
    tally.whole_s.append(0.25)
    result = Result.from_json(tally.result(wall_s=1.0, cpu_s=0.0).to_json())
    assert result.first == result.whole
    assert result.gap is None
