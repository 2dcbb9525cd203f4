"""What Claude writes into its cache costs by how long it stays there, from whichever door it is asked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from one_api.accounts.database import open_engine
from tests.accounts.test_gateway import row_of
from tests.api.messages_bed import MessagesBed, running_messages_bed
from tests.support import claude_events, claude_sse, text_block

PRICES: Any = {
    "models": {"a/*": {"input": 3, "cached_input": 0.3, "cache_write": 3.75, "cache_write_1h": 6, "output": 15}}
}
#: As the provider counts, and what that costs in nano-dollars.
WRITTEN: Any = {
    "input_tokens": 3,
    "output_tokens": 550,
    "cache_read_input_tokens": 0,
    "cache_creation_input_tokens": 12_304,
}
FOR_AN_HOUR: Any = WRITTEN | {
    "cache_creation": {"ephemeral_5m_input_tokens": 10_000, "ephemeral_1h_input_tokens": 2_304}
}
COSTS = [(WRITTEN, 54_399_000), (FOR_AN_HOUR, 54_399_000 + 2_304 * 2250)]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of an empty database."""
    return f"sqlite:///{tmp_path_factory.mktemp('caches')}/one_api.db"


@pytest.fixture(scope="module")
def bed(database: str) -> Iterator[MessagesBed]:
    """A gateway over Claude."""
    with running_messages_bed(env={"DATABASE_URL": database}, prices=PRICES) as running:
        yield running


@pytest.fixture(scope="module")
def engine(database: str, bed: MessagesBed) -> Engine:
    """The gateway's database, from outside."""
    return open_engine(database, Path())


@pytest.mark.parametrize(("usage", "cost"), COSTS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("door", ["chat", "messages"])
def test_what_is_written_into_a_cache_costs_by_how_long_it_stays(
    bed: MessagesBed, engine: Engine, door: str, stream: bool, usage: Any, cost: int
) -> None:
    model = bed.model("claude")
    begun = claude_events(text_block("Hi"), usage=usage | {"output_tokens": 1}, end_usage={"output_tokens": 550})
    bed.a.on(model, claude_sse(*begun))
    ask = bed.ask if door == "chat" else bed.message

    answer = ask(model, stream=stream, max_tokens=600)

    assert answer.status == 200, answer.body
    row = row_of(engine, answer)
    assert (row["prompt"], row["cache_write"], row["completion"]) == (12_307, 12_304, 550)
    assert (row["cost"], row["upstream_cost"]) == (cost, cost)
