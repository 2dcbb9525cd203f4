"""Which deployments can do what is asked for, and which of them make vectors that compare."""

from typing import Any

import pytest

from one_api.contract import DOORS, Kind, ModelInfo
from one_api.errors import InvalidRequest
from one_api.models.adapters.base import BaseModelAdapter
from one_api.routing.deployment import Deployment
from one_api.routing.route import Policy, Route
from one_api.routing.suited import SuitedRoutes, suited


class Server(BaseModelAdapter):
    """An adapter that could do anything; what its models are for is given, or not known."""

    speaks = frozenset(DOORS)

    def __init__(self, *kinds: Kind) -> None:
        self._kinds = kinds or None

    def list_models(self) -> list[ModelInfo]:
        """Models of these names, all alike."""
        return [ModelInfo(name, "org", kinds=self._kinds) for name in ("m", "n")]

    async def generate_completion(self, /, model: str, messages: Any, *_: Any, **__: Any) -> Any:
        """Never called."""
        raise AssertionError


class Chatter(Server):
    """An adapter that has words for chats only."""

    speaks = frozenset({"chat"})


def at(adapter: BaseModelAdapter, model: str = "m") -> Deployment:
    return Deployment("a", adapter, model)


def route(*targets: Deployment, fallbacks: tuple[Deployment, ...] = (), space: str | None = None) -> Route:
    return Route("id", list(targets), list(fallbacks), policy=Policy(embedding_space=space))


def test_a_route_that_serves_the_kind_stays_itself() -> None:
    whole = route(at(Server()), at(Server("chat", "embedding")), fallbacks=(at(Chatter()),))

    assert suited(whole, "chat") is whole


def test_what_cannot_do_it_is_left_out() -> None:
    knows, unknown, chats = at(Server("embedding")), at(Server()), at(Server("chat"))

    found = suited(route(knows, chats, unknown, fallbacks=(chats,)), "embedding")

    assert (found.targets, found.fallbacks) == ([knows, unknown], [])


def test_an_adapter_without_words_for_it_is_left_out_whatever_its_model_is_for() -> None:
    able = at(Server())

    assert suited(route(at(Chatter()), able), "speech").targets == [able]


def test_the_right_addresses_are_named() -> None:
    with pytest.raises(InvalidRequest, match=r"/v1/embeddings or /v1/rerank") as caught:
        suited(route(at(Server("embedding")), at(Server("rerank"))), "chat")

    assert (caught.value.param, caught.value.code) == ("model", "model_not_supported")


def test_vectors_come_from_models_of_one_name() -> None:
    server = Server()
    first, twin, other = at(server), at(Server()), at(server, "n")

    found = suited(route(first, other, twin, fallbacks=(other, twin)), "embedding")

    assert (found.targets, found.fallbacks) == ([first, twin], [twin])


def test_a_space_makes_one_model_of_all_targets() -> None:
    first, other, third = at(Server()), at(Server(), "n"), at(Server(), "o")

    found = suited(route(first, other, fallbacks=(other, third), space="s"), "embedding")

    assert (found.targets, found.fallbacks) == ([first, other], [other])


def test_other_kinds_have_no_space() -> None:
    whole = route(at(Server()), at(Server(), "n"))

    assert suited(whole, "moderation") is whole


def test_turns_are_counted_on_one_narrowed_route() -> None:
    routes, whole = SuitedRoutes(), route(at(Server()), at(Server("chat")))

    first = routes.route(whole, "embedding")
    first.turn = 7

    assert routes.route(whole, "embedding") is first
    assert routes.route(whole, "chat") is whole
