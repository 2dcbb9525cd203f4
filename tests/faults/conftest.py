"""One gateway for the whole matrix."""

from collections.abc import Iterator

import pytest

from .bed import FEW, FaultBed, running_faults


@pytest.fixture(scope="session")
def faults() -> Iterator[FaultBed]:
    """The gateway and its upstreams."""
    with running_faults() as running:
        yield running


@pytest.fixture(scope="session")
def eager() -> Iterator[FaultBed]:
    """One that sends heartbeats early, and so the status line of a stream that has no content yet."""
    with running_faults(FEW, server={"heartbeat_s": 0.1, "commit_s": 0.2}) as running:
        yield running


@pytest.fixture(autouse=True)
def settled(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test no exchange is open, and the gateway met no bug of its own."""
    yield
    for name in ("faults", "eager"):
        if name in request.fixturenames:
            running: FaultBed = request.getfixturevalue(name)
            running.check_settled()


@pytest.fixture(params=[False, True], ids=["whole", "stream"])
def stream(request: pytest.FixtureRequest) -> bool:
    """Whether the request asks for a stream."""
    return bool(request.param)
