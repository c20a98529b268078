from dataclasses import replace

import pytest

from berth.canonical import Operation
from berth.errors import ForbiddenError, MisdirectedError, ModelNotFoundError
from berth.plan import Adapter, Plan, Ranks, Task
from berth.router.balancing.model_catalog import ModelCatalog
from berth.state import AddedAdapter
from tests.fakes.api_keys import api_key
from tests.fakes.router import make_plan, replica, route


def plan_of(*names: str) -> Plan:
    replicas = [replica(f"{name}-vllm", "http://127.0.0.1:1") for name in names]
    return make_plan("/run", replicas)


@pytest.fixture
def catalog() -> ModelCatalog:
    replicas = [replica("chat-a", "http://127.0.0.1:1"), replica("org/embed-b", "http://127.0.0.1:1", task=Task.EMBED)]
    routes = [
        route("chat", ["chat-a"], aliases=("gpt-4o-mini", "org/embed"), context=4096),
        route("org/embed", ["org/embed-b"], task=Task.EMBED),
    ]
    return ModelCatalog(make_plan("/run", replicas, routes))


@pytest.mark.parametrize(("name", "route"), [("chat", "chat"), ("gpt-4o-mini", "chat"), ("org/embed", "org/embed")])
def test_resolves_names_before_aliases(catalog: ModelCatalog, name: str, route: str) -> None:
    assert catalog.resolve(name).name == route


@pytest.mark.parametrize(
    ("asked", "kept"),
    [("chat:latest", "chat"), ("gpt-4o-mini:latest", "gpt-4o-mini"), ("org/embed:latest", "org/embed")],
)
def test_accepts_the_latest_tag_of_ollama_clients(catalog: ModelCatalog, asked: str, kept: str) -> None:
    assert catalog.card(asked) == catalog.card(kept)
    assert catalog.resolve(asked) is catalog.resolve(kept)


def test_latest_tag_may_be_omitted_but_not_other_tags() -> None:
    catalog = ModelCatalog(plan_of("qwen:latest", "qwen:8b", "qwen:latest:latest"))

    assert catalog.resolve("qwen").name == catalog.resolve("qwen:latest").name == "qwen:latest"
    assert catalog.resolve("qwen:8b").name == "qwen:8b"
    with pytest.raises(ModelNotFoundError):
        catalog.resolve("qwen:4b")


def test_error_for_unknown_name_lists_known_names(catalog: ModelCatalog) -> None:
    with pytest.raises(ModelNotFoundError, match=r"'nix' does not exist here. Available: chat, gpt-4o-mini") as caught:
        catalog.resolve("nix")

    assert caught.value.param == "model"


def test_error_lists_a_limited_number_of_names() -> None:
    catalog = ModelCatalog(plan_of(*(f"m{number}" for number in range(12))))

    with pytest.raises(ModelNotFoundError, match=r"m0, .*m9 and 2 more"):
        catalog.card("nix")


def test_error_without_models_names_the_variable() -> None:
    with pytest.raises(ModelNotFoundError, match="set BERTH_MODELS"):
        ModelCatalog(make_plan("/run", [])).resolve("x")


def test_card_has_the_fields_that_clients_read(catalog: ModelCatalog) -> None:
    assert catalog.card("gpt-4o-mini") == {
        "id": "gpt-4o-mini",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "berth",
        "max_model_len": 4096,
        "root": "chat",
        "task": "generate",
    }
    assert "max_model_len" not in catalog.card("org/embed")


def test_listing_has_every_name_once(catalog: ModelCatalog) -> None:
    listing = catalog.listing()

    assert listing["object"] == "list"
    assert [card["id"] for card in listing["data"]] == ["chat", "gpt-4o-mini", "org/embed"]


def test_empty_name_means_the_only_model_for_the_operation() -> None:
    plan = make_plan(
        "run",
        [replica("chat-a", "http://x"), replica("embed-a", "http://y", task=Task.EMBED)],
        [route("chat", ["chat-a"], aliases=("other",)), route("embed", ["embed-a"], task=Task.EMBED)],
    )
    catalog = ModelCatalog(plan)

    assert catalog.resolve("", Operation.COMPLETION).name == "chat"
    assert catalog.resolve("", Operation.RERANK).name == "embed"
    with pytest.raises(ModelNotFoundError, match="2 models support this request"):
        catalog.resolve("", Operation.TOKENIZE)
    with pytest.raises(ModelNotFoundError, match="no model here supports it"):
        catalog.resolve("", Operation.CLASSIFY)


def test_a_context_that_is_found_later_holds_for_the_model_under_all_its_names() -> None:
    tuned = Adapter(name="tuned", source="me/tuned")
    one = replace(route("chat", ["chat-a"], aliases=("gpt-4o-mini",)), adapters=(tuned,))
    other = route("embed", ["embed-b"])
    replicas = [replica("chat-a", "http://127.0.0.1:1"), replica("embed-b", "http://127.0.0.1:1")]
    catalog = ModelCatalog(make_plan("/run", replicas, [one, other]))
    catalog.set_context("chat", 512)
    assert [catalog.resolve(name).context for name in ("chat", "gpt-4o-mini", "tuned")] == [512, 512, 512]
    assert [card.get("max_model_len") for card in catalog.listing()["data"]] == [512, 512, 512, None]


def test_a_key_sees_its_own_models_alone(catalog: ModelCatalog) -> None:
    key = api_key("k", models=("chat",))

    assert [card["id"] for card in catalog.listing(key)["data"]] == ["chat", "gpt-4o-mini"]
    assert catalog.resolve("", Operation.CHAT, key).name == "chat"
    with pytest.raises(ForbiddenError):
        catalog.card("org/embed", key)
    with pytest.raises(ModelNotFoundError, match=r"Available: chat, gpt-4o-mini\.$"):
        catalog.resolve("nix", key=key)
    with pytest.raises(ModelNotFoundError, match="no model here supports it"):
        catalog.resolve("", Operation.EMBEDDING, key)


def test_adapters_that_are_added_are_models_until_they_are_removed(catalog: ModelCatalog) -> None:
    added = AddedAdapter(name="law", model="chat")
    catalog.set_added([added, AddedAdapter(name="chat", model="chat"), AddedAdapter(name="x", model="none")])
    route = catalog.resolve("law")
    assert (route.name, route.base, route.added, route.context) == ("chat", "chat", "law", 4096)
    assert catalog.card("law")["parent"] == "chat"
    assert "law" in [card["id"] for card in catalog.listing()["data"]]
    catalog.set_context("chat", 512)
    assert catalog.resolve("law").context == 512

    catalog.set_added([])
    assert (catalog.resolve("chat").added, "law" in str(catalog.listing())) == ("", False)
    with pytest.raises(ModelNotFoundError):
        catalog.resolve("law")


def test_a_request_to_a_rank_that_follows_gets_the_heads_address() -> None:
    ranks = Ranks(nodes=2, rank=1, head="10.0.0.1", own="x", port=1, interface="i", url="http://10.0.0.1:8000")
    follows = replace(replica("big-vllm", "http://127.0.0.1:1"), model="big", ranks=ranks)
    spread = replace(route("big", ["big-vllm"]), adapters=(Adapter(name="tone", source="a/b"),))
    routes = [spread, route("own", ["own-vllm"])]
    own = replace(replica("own-vllm", "http://127.0.0.1:1"), model="own")
    catalog = ModelCatalog(make_plan("/run", [follows, own], routes))
    for name in ("big", "tone"):
        with pytest.raises(MisdirectedError, match=r"is served by http://10\.0\.0\.1:8000: send its requests there"):
            catalog.resolve(name, Operation.CHAT)
        assert catalog.card(name)["id"] == name
    assert catalog.resolve("own", Operation.CHAT).name == "own"
    alone = ModelCatalog(make_plan("/run", [follows], routes[:1]))
    with pytest.raises(MisdirectedError):
        alone.resolve("", Operation.CHAT)
    at_head = replace(follows, ranks=replace(ranks, rank=0))
    assert ModelCatalog(make_plan("/run", [at_head], routes[:1])).resolve("big", Operation.CHAT).name == "big"
