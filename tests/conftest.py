"""What has to be there before the first test."""

import pytest
from hypothesis import strategies as st


@pytest.fixture(scope="session", autouse=True)
def table_of_characters() -> None:
    """Let Hypothesis make its table of characters, which takes seconds on a fresh checkout.

    Else the first test that draws a text makes it, and Hypothesis takes that for data that are slow to generate.
    """
    st.text().validate()
