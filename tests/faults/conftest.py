"""One gateway for the whole matrix."""

from collections.abc import Iterator

import pytest

from .bed import FaultBed, running_faults


@pytest.fixture(scope="package")
def faults() -> Iterator[FaultBed]:
    """The gateway and its upstreams."""
    with running_faults() as running:
        yield running


@pytest.fixture(autouse=True)
def settled(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test no exchange is open, and the gateway met no bug of its own."""
    yield
    if "faults" in request.fixturenames:
        running: FaultBed = request.getfixturevalue("faults")
        running.check_settled()


@pytest.fixture(params=[False, True], ids=["whole", "stream"])
def stream(request: pytest.FixtureRequest) -> bool:
    """Whether the request asks for a stream."""
    return bool(request.param)
