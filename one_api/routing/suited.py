"""Which deployments of a route can do what a request asks for: not every model chats, and vectors compare within one
model only."""

import logging

from msgspec.structs import replace

from one_api.contract import DOORS, Kind
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.errors import InvalidRequest
from one_api.routing.route import Route

logger = logging.getLogger(__name__)


#: The settings of a group which say that its targets are one model, for what is not compared between models.
_SPACES: dict[Kind, str] = {"embedding": "embedding_space", "rerank": "rerank_space"}


def suited(route: Route, kind: Kind) -> Route:
    """Return ``route`` with the deployments alone that serve ``kind``; itself, if all of them do.

    Vectors and scores of documents compare within one model only: for embeddings and reranking all of them are one
    model, those of a group whose space is set, else those that call their model as the first one does.

    Raises:
        InvalidRequest: when no target serves it; names where to ask this model.
    """
    targets = [each for each in route.targets if each.adapter.serves(each.model, kind)]
    if not targets:
        raise _wrong_door(route, kind)
    fallbacks = [each for each in route.fallbacks if each.adapter.serves(each.model, kind)]
    if (space := _SPACES.get(kind)) is not None:
        if getattr(route.policy, space) is None:
            targets = [each for each in targets if each.model == targets[0].model]
        names = {each.model for each in targets}
        fallbacks = [each for each in fallbacks if each.model in names]
    if len(targets) == len(route.targets) and len(fallbacks) == len(route.fallbacks):
        return route
    return replace(route, targets=targets, fallbacks=fallbacks)


def is_passed_through(route: Route, asked: ChatRequest) -> bool:
    """Return whether an answer may come in another dialect than chat's, in which nothing is kept or shared."""
    native = asked.native
    if native is None:
        return False
    deployments = (*route.targets, *route.fallbacks)
    return native.refusal is not None or any(native.api in each.adapter.apis for each in deployments)


class SuitedRoutes:
    """The narrowed routes, kept because turns are counted on them."""

    def __init__(self) -> None:
        #: By model id and kind, where not all of a route serves that kind; bounded by what there is.
        self._narrowed: dict[tuple[str, Kind], Route] = {}

    def route(self, route: Route, kind: Kind) -> Route:
        """Return what ``suited`` returns: the same object as long as it is the same route."""
        narrowed = suited(route, kind)
        if narrowed is route:
            return route
        known = self._narrowed.get((route.model, kind))
        if known is not None and (known.targets, known.fallbacks) == (narrowed.targets, narrowed.fallbacks):
            return known
        self._narrowed[route.model, kind] = narrowed
        if (space := _SPACES.get(kind)) is not None:
            _warn(route, narrowed, space)
        return narrowed


def _warn(route: Route, narrowed: Route, space: str) -> None:
    kept = [*narrowed.targets, *narrowed.fallbacks]
    names = ", ".join(each.name for each in (*route.targets, *route.fallbacks) if each not in kept)
    logger.warning(
        "model %s: not asked, because its vectors or scores might not compare: %s; if it is one model, set %s",
        route.model,
        names,
        space,
    )


def _wrong_door(route: Route, kind: Kind) -> InvalidRequest:
    known = {each for target in route.targets for each in target.adapter.kinds_of(target.model) or ()}
    doors = [path for each, path in DOORS.items() if each in known and each != kind]
    advice = f"ask it at POST {' or '.join(doors)}" if doors else "choose another one"
    # The doors of chats are several, with words of their own.
    wanted = "is not for chats" if kind == "chat" else f"does not serve {DOORS[kind]}"
    return InvalidRequest(
        f"The model `{route.model[:256]}` {wanted}: {advice}.",
        param="model",
        code="model_not_supported",
    )
