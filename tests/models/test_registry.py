"""The registry: which ids there are, where they lead, and what callers in Python use."""

import asyncio
from typing import Any

import pytest

from one_api.config import Config
from one_api.contract import ChunkStream, ModelInfo
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.errors import NoDeployment, UnknownModel, UpstreamFailed
from one_api.models.adapters.base import RequestAdapter
from one_api.models.registry import ModelRegistry
from one_api.records import AttemptContext, CallContext
from one_api.settings.adapters import OpenAIConfig
from one_api.settings.sections import GroupConfig, RetryConfig, TargetConfig
from tests.utils.fake_adapter import FakeAdapter

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]


def registry(groups: dict[str, GroupConfig] | None = None, **adapters: FakeAdapter) -> ModelRegistry:
    """A registry of these adapters."""
    made = ModelRegistry(Config(model_groups=groups or {}, retry=RetryConfig(budget=1.0)))
    for name, adapter in adapters.items():
        made.register_adapter(name, adapter)
    return made


async def answer(of: ModelRegistry, model: str, **more: Any) -> Any:
    """The answer to a chat request."""
    return await of.generate_completion(model=model, messages=MESSAGES, **more)


# Adapters


def test_two_adapters_cannot_have_one_name() -> None:
    found = registry(a=FakeAdapter())

    with pytest.raises(ValueError, match="'a' is registered already"):
        found.register_adapter("a", FakeAdapter())


def test_the_adapter_of_a_model() -> None:
    a, b = FakeAdapter(models=["x"]), FakeAdapter(models=["y", "org/z:1"])
    found = registry(a=a, b=b)

    models = ("x", "y", "org/z:1", "a/x", "b/org/z:1")
    assert [found.get_adapter_for_model(model) for model in models] == [a, b, b, a, b]


@pytest.mark.parametrize("model", ["nobody", "", "/", "a", "a/", "/x", "c/x", "a/y", "X"])
async def test_a_model_that_is_not_known(model: str) -> None:
    found = registry(a=FakeAdapter(models=["x"]))

    with pytest.raises(UnknownModel):
        found.get_adapter_for_model(model)
    with pytest.raises(UnknownModel):
        found.select_adapter_with_load_balancing(model)
    with pytest.raises(UnknownModel):
        await found.get_model(model)
    with pytest.raises(UnknownModel):
        await answer(found, model)


def test_the_name_in_the_message_is_cut() -> None:
    with pytest.raises(UnknownModel) as caught:
        registry().get_adapter_for_model("x" * 10_000)

    assert len(caught.value.message) < 400


# Ids


async def test_ids_are_groups_then_plain_ids_then_addresses_and_each_model_is_listed_once() -> None:
    groups = {"fast": GroupConfig(targets=("a/x", TargetConfig(model="b/y")), fallbacks=("b/x",))}
    found = registry(groups, a=FakeAdapter(models=["x"]), b=FakeAdapter(models=["x", "y"]))

    assert found.model_mapping == {
        "fast": ("a/x", "b/y"),
        "x": ("a/x", "b/x"),
        "y": ("b/y",),
        "a/x": ("a/x",),
        "b/x": ("b/x",),
        "b/y": ("b/y",),
    }
    assert [entry["id"] for entry in await found.list_all_models()] == ["fast", "x", "y"]


async def test_a_group_hides_a_plain_id_of_its_name() -> None:
    a, b = FakeAdapter({"from": "a"}, models=["x"]), FakeAdapter({"from": "b"}, models=["y"])
    found = registry({"x": GroupConfig(targets=("b/y",))}, a=a, b=b)

    assert found.model_mapping["x"] == ("b/y",)
    assert (await answer(found, "x"))["from"] == "b"
    assert (await answer(found, "a/x"))["from"] == "a"


async def test_an_address_is_not_diverted_by_what_another_upstream_calls_its_models() -> None:
    a, b = FakeAdapter({"from": "a"}, models=["x"]), FakeAdapter({"from": "b"}, models=["a/x", "x/y"])
    found = registry(a=a, b=b)

    assert (await answer(found, "a/x"))["from"] == "a"
    assert found.model_mapping["a/x"] == ("a/x",)
    assert (await answer(found, "b/a/x"))["from"] == "b"
    assert (await answer(found, "x/y"))["from"] == "b"


async def test_a_group_can_have_the_name_of_an_address() -> None:
    groups = {"a/x": GroupConfig(targets=("b/y",))}
    found = registry(groups, a=FakeAdapter(models=["x"]), b=FakeAdapter({"from": "b"}, models=["y"]))

    assert found.model_mapping["a/x"] == ("b/y",)
    assert (await answer(found, "a/x"))["from"] == "b"


async def test_every_id_that_is_listed_is_served_and_no_other() -> None:
    groups = {"g": GroupConfig(targets=("a/x",)), "org/g:1": GroupConfig(targets=("b/deep/y",))}
    found = registry(groups, a=FakeAdapter(models=["x", "a/x", "b"]), b=FakeAdapter(models=["deep/y", "x"]))

    for entry in await found.list_all_models():
        assert (await found.get_model(entry["id"]))["id"] == entry["id"]
        assert await answer(found, entry["id"])


class ListingAdapter(RequestAdapter):
    """One of ours that only lists; ``asked`` counts how often it was asked for one model."""

    def __init__(self, *models: str) -> None:
        self.models = {model: ModelInfo(model, "org") for model in models}
        self.asked = 0

    def list_models(self) -> list[ModelInfo]:
        """See ``BaseModelAdapter``."""
        return list(self.models.values())

    def get_model_info(self, model_id: str) -> ModelInfo | None:
        """See ``BaseModelAdapter``."""
        self.asked += 1
        return self.models.get(model_id)

    async def complete(self, request: ChatRequest, context: AttemptContext) -> dict[str, Any]:
        """Nobody asks."""
        raise NotImplementedError

    async def stream(self, request: ChatRequest, context: AttemptContext) -> ChunkStream:
        """Nobody asks."""
        raise NotImplementedError


async def test_the_list_is_made_anew_only_when_an_adapter_lists_something_else() -> None:
    adapter, found = ListingAdapter("x", "y"), registry()
    found.register_adapter("a", adapter)
    before = await found.list_all_models()
    adapter.asked = 0

    assert await found.list_all_models() == before
    assert adapter.asked == 0

    adapter.models["x"] = ModelInfo("x", "org", context_window=4096)
    adapter.models["z"] = ModelInfo("z", "org")
    after = await found.list_all_models()
    assert [entry["id"] for entry in after] == ["x", "y", "z"]
    assert after[0]["context_window"] == 4096

    found.register_adapter("b", ListingAdapter("w"))
    assert [entry["id"] for entry in await found.list_all_models()] == ["x", "y", "z", "w"]


async def test_entries_say_what_the_adapter_knows() -> None:
    a = FakeAdapter()
    a.models = [ModelInfo("x", "org", 7, context_window=4096, max_output_tokens=512, extra={"id": "no", "odd": [1]})]
    found = registry({"g": GroupConfig(targets=("a/x",)), "h": GroupConfig(targets=("a/unlisted",))}, a=a)

    assert await found.get_model("g") == {
        "id": "g", "object": "model", "created": 7, "owned_by": "org", "context_window": 4096, "context_length": 4096,
        "max_model_len": 4096, "max_output_tokens": 512, "kinds": ["chat"], "odd": [1],
    }  # fmt: skip
    assert await found.get_model("h") == {"id": "h", "object": "model", "created": 0, "owned_by": "a"}


async def test_ids_follow_what_adapters_list() -> None:
    a = FakeAdapter(models=["x"])
    found = registry(a=a)
    assert await answer(found, "x")

    a.models = [ModelInfo("y", "fake")]

    assert list(found.model_mapping) == ["y", "a/y"]
    assert await answer(found, "y")
    with pytest.raises(UnknownModel):
        await answer(found, "x")


# While upstreams have not been heard of


async def test_an_unknown_id_may_still_become_known() -> None:
    found = registry(a=FakeAdapter(models=["x"]), b=FakeAdapter(models=[], pending="it is asleep"))

    with pytest.raises(NoDeployment, match="b: it is asleep") as caught:
        await answer(found, "y")

    assert caught.value.retry_after_s is not None
    assert await answer(found, "x")


def test_ready_or_why_not() -> None:
    assert registry().unready == "no adapter is configured"
    assert "b: it is asleep" in str(registry(b=FakeAdapter(models=[], pending="it is asleep")).unready)
    assert "b: it lists no models" in str(registry(b=FakeAdapter(models=[])).unready)
    assert registry(a=FakeAdapter(), b=FakeAdapter(models=[], pending="it is asleep")).unready is None


# Load


async def test_adapters_of_one_id_share_the_load() -> None:
    a, b = FakeAdapter(), FakeAdapter()
    found = registry(a=a, b=b)

    chosen = {id(found.select_adapter_with_load_balancing("m")) for _ in range(60)}
    for _ in range(60):
        await answer(found, "m")

    assert chosen == {id(a), id(b)}
    assert len(a.calls) + len(b.calls) == 60
    assert min(len(a.calls), len(b.calls)) > 10


async def test_weights_come_from_the_group_or_from_the_adapter() -> None:
    adapters = {"a": OpenAIConfig(models=("m",), weight=1e9), "b": OpenAIConfig(models=("m",))}
    groups = {"g": GroupConfig(targets=(TargetConfig(model="a/m", weight=1), TargetConfig(model="b/m", weight=1e9)))}
    found = ModelRegistry(Config(adapters=dict(adapters), model_groups=groups))
    a, b = FakeAdapter(), FakeAdapter()
    found.register_adapter("a", a)
    found.register_adapter("b", b)

    for _ in range(5):
        await answer(found, "m")
        await answer(found, "g")

    assert [call["model"] for call in a.calls + b.calls] == ["m"] * 10
    assert (len(a.calls), len(b.calls)) == (5, 5)


async def test_health_is_one_for_a_deployment_whichever_way_it_is_reached() -> None:
    group = GroupConfig(targets=(TargetConfig(model="a/m", weight=5),), strategy="ordered")
    a = FakeAdapter(UpstreamFailed("x"))
    found = registry({"g": group}, a=a)

    for model in ("m", "g", "a/m"):
        with pytest.raises(UpstreamFailed):
            await answer(found, model)

    health = found.adapter_metrics
    assert list(health) == ["a/m"]
    assert (health["a/m"].failures, health["a/m"].in_flight) == (3, 0)


async def test_a_full_deployment_is_not_selected() -> None:
    config = Config(adapters={"a": OpenAIConfig(models=("m",), max_concurrency=1)})
    found = ModelRegistry(config)
    found.register_adapter("a", FakeAdapter([{"n": 1}, {"n": 2}]))

    stream = await answer(found, "m", stream=True)

    assert isinstance(stream, ChunkStream)
    async with stream:
        with pytest.raises(NoDeployment):
            found.select_adapter_with_load_balancing("m")
        with pytest.raises(NoDeployment):
            await answer(found, "m")
    assert found.adapter_metrics["a/m"].in_flight == 0


async def test_a_group_with_a_fallback() -> None:
    groups = {"g": GroupConfig(targets=("a/m",), fallbacks=("b/m",), strategy="ordered")}
    a, b = FakeAdapter(UpstreamFailed("x")), FakeAdapter({"from": "b", "model": "m"})
    found = registry(groups, a=a, b=b)

    assert (await answer(found, "g"))["from"] == "b"
    assert (len(a.calls), len(b.calls)) == (2, 1), "the only target is asked once more"


@pytest.mark.parametrize("fallback", ["h", "alias", "both"])
async def test_a_group_falls_back_to_a_group(fallback: str) -> None:
    groups = {
        "g": GroupConfig(targets=("a/m",), fallbacks=(fallback,)),
        "h": GroupConfig(targets=("b/m",)),
        "alias": GroupConfig(targets=("h",)),
        "both": GroupConfig(targets=("a/m", "h")),
    }
    a, b = FakeAdapter(UpstreamFailed("x")), FakeAdapter({"from": "b"})
    found = registry(groups, a=a, b=b)

    assert (await answer(found, "g"))["from"] == "b"
    assert found.model_mapping["alias"] == ("b/m",)


async def test_the_request_goes_on_as_it_is() -> None:
    a = FakeAdapter()
    body: dict[str, Any] = {
        "odd": {"deep": [1.0]}, "model": "m", "self": 1, "messages": MESSAGES, "kwargs": 2, "request": 3, "stream": None
    }  # fmt: skip

    await registry(a=a).complete(ChatRequest.of(body), CallContext())

    (call,) = a.calls
    assert {key: call[key] for key in body} == body


# Life


async def test_adapters_are_started_once_and_closed() -> None:
    a, b = FakeAdapter(), FakeAdapter()
    found = registry(a=a, b=b)

    await asyncio.gather(found.start(), found.start(), found.list_all_models())
    await found.aclose()

    assert [(each.started, each.closed) for each in (a, b)] == [(1, 1), (1, 1)]
