"""What has to be there before the first test."""

import gc
import signal

import pytest
from hypothesis import settings
from hypothesis import strategies as st

#: ``make check-long`` chooses it: as many examples as each property test asks for.
settings.register_profile("long", max_examples=10_000)


@pytest.fixture(scope="session", autouse=True)
def table_of_characters() -> None:
    """Let Hypothesis make its table of characters, which takes seconds on a fresh checkout.

    Else the first test that draws a text makes it, and Hypothesis takes that for data that are slow to generate.
    """
    st.text().validate()


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """Let servers that the tests start end on SIGINT.

    A shell that runs the tests in the background ignores it, and every process below inherits that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Let the collector pass over what thousands of collected tests hold: it stays to the end."""
    gc.collect()
    gc.freeze()
