"""What happens after an error: again here, elsewhere, a fallback, resume, or give up; and the error for the client.

``next_step`` is the only place that decides it, by the rule that each error's class carries (``errors``).
"""

import random
import time
from typing import NamedTuple

from one_api.errors import (
    InvalidRequest,
    NoDeployment,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
    UpstreamUnsuitable,
)
from one_api.models.adapters.base import model_of
from one_api.routing.attempt import RequestState
from one_api.routing.deployment import Deployment
from one_api.routing.selection import Candidate, candidates, choose

#: The back-off before the same deployment is asked again, in seconds: at least, at most.
_BACKOFF_S = (0.05, 0.2)
#: The longest wait for an upstream that says when it will be ready, in seconds: for the only target, and for the first
#: of several in order.
_MAX_WAIT_S, _MAX_WAIT_IN_ORDER_S = 5.0, 2.0
#: The state of a candidate whose context is too small for the request.
_SMALL = "small"


class NextAttempt(NamedTuple):
    """What to ask next, out of which candidates, after which wait, and whether another could be asked after it."""

    deployment: Deployment
    candidates: list[Candidate]
    others_left: bool
    wait_s: float = 0.0
    #: Whether it is one of those that the retry limit counts.
    limited: bool = True


def first_step(state: RequestState, rng: random.Random) -> NextAttempt | None:
    """Return what to ask first; None when nothing can be asked. The least bad serves when none is healthy."""
    found = look(state)
    return _choose(state, found, found, rng)


def next_step(state: RequestState, error: UpstreamError | InvalidRequest, rng: random.Random) -> NextAttempt | None:
    """Return what to ask after ``error``: the same deployment, another target, a fallback; None is the end.

    Before the first content any deployment may answer. After it (``state.sent``), ``error`` is what broke the stream,
    and the next one has to go on with it. The least bad is never asked here, so an outage is not made worse.
    """
    if state.attempts_left == 0 or (isinstance(error, UpstreamTimeout) and not state.request.repeats):
        return None
    if state.sent is not None:
        resumes = state.sent.whole and isinstance(error, UpstreamError) and error.retry_elsewhere
        return _elsewhere(state, rng) if resumes else None
    if _refusal(state) is not None:  # of two that were asked at once, one has said so and the other failed
        return None
    # Only that deployment could not express the request: what went wrong before still decides.
    rule = error if isinstance(error, UpstreamError) else next(reversed(state.errors), None)
    if rule is None or state.left_s <= 0 or not (rule.retry_elsewhere or overflows(rule)):
        return None
    chosen = _again(state, error, rng) or _elsewhere(state, rng)
    # Nothing was sent, or the request goes to where there is room for it: that adds nothing to an outage.
    is_free = isinstance(rule, UpstreamUnreachable) or overflows(rule)
    return chosen._replace(limited=False) if chosen is not None and is_free else chosen


def _again(state: RequestState, error: UpstreamError | InvalidRequest, rng: random.Random) -> NextAttempt | None:
    """Return the first deployment once more, where it is preferred to all others and likely to answer now.

    It is preferred when it is the only target, since a fallback is another model, and when the targets have an order.
    With one attempt left, another one has it.
    """
    route, first = state.route, state.attempts[0].deployment
    if len(state.attempts) != 1 or state.attempts_left < 2 or not isinstance(error, UpstreamError):
        return None
    if first not in route.targets or first.health.circuit.open_until:
        return None
    is_only = len(route.targets) == 1
    if not (route.fallbacks if is_only else route.strategy == "ordered"):
        return None
    wait_s = wait_before_again(error, _MAX_WAIT_S if is_only else _MAX_WAIT_IN_ORDER_S, rng)
    if wait_s is None or wait_s >= state.left_s:
        return None
    return NextAttempt(first, look(state), others_left=not state.silences, wait_s=wait_s)


def _elsewhere(state: RequestState, rng: random.Random) -> NextAttempt | None:
    """Return one that has not been asked: a target by the group's strategy, then a fallback in order."""
    found = look(state)
    return _choose(state, found, [each for each in found if each.excluded is None], rng)


def _choose(
    state: RequestState, found: list[Candidate], eligible: list[Candidate], rng: random.Random
) -> NextAttempt | None:
    """Choose among the ``eligible`` of those that were ``found``; the record of the attempt shows all of them."""
    chosen = choose(eligible, state.route.strategy, state.route.turn, rng, may_probe=state.may_probe)
    state.route.turn += 1
    if chosen is None:
        return None
    others = any(each.excluded is None for each in found if each is not chosen)
    can_follow = state.attempts_left > 1 and not state.silences and state.retries.allows_any
    return NextAttempt(chosen.deployment, found, others and can_follow)


def look(state: RequestState) -> list[Candidate]:
    """Return how every deployment looks for the request now; one that is too small for it cannot be chosen."""
    found = candidates(state.route, state.tried, time.monotonic(), state.stream, state.request.kind)
    if state.overflowed is not None:
        for each in found:
            if not each.fallback or not has_room(each.deployment, state.overflowed):
                each.state, each.excluded = _SMALL, "the request is too long for its context"
    return found


def overflows(error: UpstreamError) -> bool:
    """Return whether the request was refused for being longer than the model's context."""
    return isinstance(error, UpstreamRejected) and error.code == "context_length_exceeded"


def has_room(deployment: Deployment, than: Deployment) -> bool:
    """Return whether the context of a deployment is larger than another's, or not known."""
    known, room = _context(than), _context(deployment)
    return known is None or room is None or room > known


def _context(deployment: Deployment) -> int | None:
    info = model_of(deployment.adapter, deployment.model)
    return info.context_window if info is not None else None


def wait_before_again(error: UpstreamError, max_wait_s: float, rng: random.Random) -> float | None:
    """Return how long to wait before the same deployment is asked again, in seconds; None: not at all.

    It may be asked after what it asks for itself, if that is short, and after a back-off when it failed or hung up.
    One that was silent, that cannot be reached, or that sends what cannot be read is not asked again.
    """
    if not error.retry_same:
        return None
    if error.retry_after_s is not None:
        return error.retry_after_s if error.retry_after_s <= max_wait_s else None
    if error.cooldown_s:  # a limit is reached, and it is not known for how long
        return None
    return rng.uniform(*_BACKOFF_S)


def error_for_client(state: RequestState, last: UpstreamError | InvalidRequest | None) -> Exception:
    """Return the error for the client, of all that were met; ``last`` is what the last attempt ended with.

    Usually the last. When all were rate limits, the one that is over first; when the request was too long for its
    model or refused, that, since it is what the client can change. What only one deployment could not do never hides a
    failure.
    """
    errors = state.errors
    if state.left_s <= 0:
        return UpstreamTimeout(f"No upstream has answered within {state.deadline_s:g} s.")
    if not errors:
        model = state.route.model
        return last or NoDeployment(f"Every deployment of `{model}` is busy: try again in a moment.", retry_after_s=1)
    if all(isinstance(error, UpstreamRateLimited) for error in errors):
        return min(errors, key=lambda error: error.retry_after_s or float("inf"))
    too_long = next((error for error in errors if overflows(error)), None)
    failures = [error for error in errors if not isinstance(error, UpstreamUnsuitable)]
    return too_long or _refusal(state) or (failures or errors)[-1]


def _refusal(state: RequestState) -> UpstreamError | None:
    """Return what an upstream has said against the request itself, which no other would do better."""
    return next((each for each in state.errors if _is_refusal(each)), None)


def _is_refusal(error: UpstreamError) -> bool:
    return isinstance(error, UpstreamRejected) and not error.retry_elsewhere and not overflows(error)
