"""Fixtures of the tests that go through the real gateway."""

from collections.abc import Iterator

import openai
import pytest

from .bed import SHARED, Bed, running_bed
from .doors import DoorBed, running_doors


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    """One gateway for all tests that need no other."""
    with running_bed(times=SHARED) as running:
        yield running


@pytest.fixture(autouse=True)
def settled(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test of a bed no exchange is open, and the gateway met no bug of its own."""
    yield
    for name in {"bed", "doors"} & set(request.fixturenames):
        running: Bed = request.getfixturevalue(name)
        running.check_settled()


@pytest.fixture(scope="session")
def client(bed: Bed) -> Iterator[openai.OpenAI]:
    """The official client, without retries of its own."""
    with bed.sdk() as opened:
        yield opened


@pytest.fixture(scope="session")
def quick() -> Iterator[Bed]:
    """A gateway with little patience: short heartbeats, an early status line, and `developer` sent as `system`."""
    patience = {"heartbeat_s": 0.1, "commit_s": 0.3}
    with running_bed(patience, {"developer_as_system": True}, times=SHARED) as running:
        yield running


@pytest.fixture(scope="session")
def doors() -> Iterator[DoorBed]:
    """A gateway with models of several kinds, and groups of two."""
    with running_doors(each=120) as running:
        yield running


@pytest.fixture(params=[False, True], ids=["whole", "stream"])
def stream(request: pytest.FixtureRequest) -> bool:
    """Whether the request asks for a stream."""
    return bool(request.param)
