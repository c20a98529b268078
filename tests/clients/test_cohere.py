"""Cohere's client, both versions of its API for reranking."""

import os
from typing import Any

import pytest

from tests.clients.scene import EMBED, KEY, VARIABLE, Scene

if VARIABLE not in os.environ:
    pytest.skip("cohere is tried by: make clients-test", allow_module_level=True)

cohere: Any = pytest.importorskip("cohere")

DOCUMENTS = ["stone walls", "red sails in the sunset", "fish and gulls"]


def ask(client: Any, model: str = EMBED) -> Any:
    return client.rerank(model=model, query="red sails", documents=DOCUMENTS, top_n=2)


@pytest.mark.parametrize("version", ["Client", "ClientV2"])
def test_the_best_documents_come_first(scene: Scene, version: str) -> None:
    results = ask(getattr(cohere, version)(api_key=KEY, base_url=scene.url)).results
    assert len(results) == 2
    assert results[0].relevance_score > results[1].relevance_score
    assert all(0 <= result.index < len(DOCUMENTS) for result in results)


@pytest.mark.parametrize("version", ["Client", "ClientV2"])
def test_errors_are_the_clients_own(scene: Scene, version: str) -> None:
    make = getattr(cohere, version)
    with pytest.raises(cohere.NotFoundError, match="no-such-model"):
        ask(make(api_key=KEY, base_url=scene.url), "no-such-model")
    with pytest.raises(cohere.UnauthorizedError):
        ask(make(api_key="wrong", base_url=scene.url))
    with pytest.raises(cohere.BadRequestError):
        ask(make(api_key=KEY, base_url=scene.url), "vllm")
