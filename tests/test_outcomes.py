"""The table that says by whose doing a request ended as it did."""

from typing import get_args

import pytest

from one_api import errors
from one_api.errors import GatewayError, UpstreamBroken, UpstreamError, UpstreamTimeout
from one_api.outcomes import OF_ERRORS, Outcome, outcome_of
from one_api.records import CallRecord

TREE = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GatewayError)}


def test_every_class_of_the_tree_has_a_row_and_nothing_else_has_one() -> None:
    assert set(OF_ERRORS) == TREE


def test_every_outcome_can_come_about() -> None:
    assert set(OF_ERRORS.values()) | {"ok", "cached", "client_gone"} == set(get_args(Outcome))


@pytest.mark.parametrize("kind", sorted(TREE, key=str))
def test_a_request_that_ends_with_an_error_has_its_outcome(kind: type[GatewayError]) -> None:
    record = CallRecord("req_1", "POST", "/v1/chat/completions")
    record.fail(kind("m"))
    record.status = kind.status
    record.end(cancelled=False)

    assert record.outcome == OF_ERRORS[kind]


def test_an_error_of_an_adapter_of_somebody_else_counts_as_what_it_is_made_of() -> None:
    class Own(UpstreamTimeout):
        """Outside of the tree."""

    assert outcome_of(Own("m")) == "upstream_timeout"


@pytest.mark.parametrize("kind", [UpstreamTimeout, UpstreamBroken, UpstreamError])
def test_a_stream_that_breaks_after_content_is_broken_whatever_broke_it(kind: type[UpstreamError]) -> None:
    record = CallRecord("req_1", "POST", "/v1/chat/completions", status=200, first_event=1.0)
    record.fail(kind("m"))
    record.end(cancelled=False)

    assert record.outcome == "upstream_broken"


@pytest.mark.parametrize(
    ("status", "cache", "outcome"),
    [(200, None, "ok"), (200, "miss", "ok"), (200, "joined", "ok"), (200, "hit", "cached"), (304, None, "ok"),
     (404, None, "client_invalid"), (500, None, "gateway_bug"), (None, None, "gateway_bug")],
)  # fmt: skip
def test_without_an_error_the_status_decides(status: int | None, cache: str | None, outcome: str) -> None:
    record = CallRecord("req_1", "GET", "/v1/models", status=status, cache=cache)
    record.end(cancelled=False)

    assert record.outcome == outcome


def test_a_client_that_leaves_is_gone_whatever_was_before() -> None:
    record = CallRecord("req_1", "POST", "/v1/chat/completions", status=200)
    record.end(cancelled=True)

    assert (record.outcome, record.status) == ("client_gone", 499)
