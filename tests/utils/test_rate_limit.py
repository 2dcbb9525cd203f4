"""Whose limits count, and what is settled; the limit itself is tested through the gateway."""

import pytest
from flask import Flask

from one_api.config import Config
from one_api.contract import Caller, Usage
from one_api.records import CallRecord
from one_api.settings.sections import RateLimitConfig
from one_api.utils.limiter import KeyLimiter
from one_api.utils.rate_limit import build_limits


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ((None, None, None), (10, 1000, 5)),
        ((0, 0, 0), (None, None, None)),
        ((20, None, None), (20, 1000, 5)),
        ((None, 20, 0), (10, 20, None)),
    ],
)
def test_limits_of_a_callers_own_go_before_those_of_all(
    own: tuple[int | None, int | None, int | None], told: tuple[int | None, ...]
) -> None:
    config = Config(rate_limit=RateLimitConfig(requests_per_minute=10, tokens_per_minute=1000, concurrent=5))
    limits = build_limits(config, KeyLimiter(Flask(__name__), config, lambda: 1))
    requests, tokens, concurrent = own
    caller = Caller("alice", requests_per_minute=requests, tokens_per_minute=tokens, concurrent=concurrent)

    assert tuple(limits.settings_of(caller).values()) == told


@pytest.mark.parametrize(
    "free, usage, left, counted",
    [
        (False, Usage(2, 3), False, 5),
        (False, None, True, 100),
        (False, None, False, 0),
        (True, Usage(0, 0), False, 0),
        (True, None, True, 0),
    ],
)
async def test_a_request_is_settled_to_what_it_used(free: bool, usage: Usage | None, left: bool, counted: int) -> None:
    config = Config(rate_limit=RateLimitConfig(tokens_per_minute=1000))
    limits = build_limits(config, KeyLimiter(Flask(__name__), config, lambda: 1))
    await limits.admit(Caller("alice"), "r", 400)
    record = CallRecord("r", "POST", "/", status=499 if left else 200, free=free, usage=usage)
    await limits.settle(record)
    told = await limits.admit(Caller("alice"), "next", 0)
    assert told["x-ratelimit-remaining-tokens"] == str(1000 - counted)
