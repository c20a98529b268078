"""Model and engine specifications."""

from berth.boot.config.model_spec import EngineOptions, EngineSpec, ModelSpec
from berth.plan import EngineName


def test_chosen_engine_gets_the_models_options() -> None:
    options = {EngineName.VLLM: EngineOptions(args=("-x",), env={"A": "b"})}
    model = ModelSpec(name="m", source="x/y", options=options)
    assert model.chosen(EngineName.VLLM) == EngineSpec(engine=EngineName.VLLM, args=("-x",), env={"A": "b"})
    assert model.chosen(EngineName.SGLANG) == EngineSpec(engine=EngineName.SGLANG)


def test_api_key_is_not_in_the_repr() -> None:
    assert "s3cret" not in repr(EngineSpec(engine=EngineName.REMOTE, url="http://a", api_key="s3cret"))
