"""What the tests of all clients share. They run where `make clients-test` has started an appliance, else nowhere."""

import os

import pytest

from tests.clients.scene import MODELS, SIMULATED, VARIABLE, Scene


@pytest.fixture(scope="session")
def scene() -> Scene:
    if VARIABLE not in os.environ:
        pytest.skip("other people's clients are tried by: make clients-test")
    return Scene.from_json(os.environ[VARIABLE])


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, scene: Scene) -> str:
    name: str = request.param
    if name not in scene.texts:
        pytest.skip("the real vLLM for the CPU is not installed: make engine-vllm tiny-model")
    return name


@pytest.fixture(params=SIMULATED)
def simulated(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def text(scene: Scene, model: str) -> str:
    """What the model says."""
    return scene.texts[model]
