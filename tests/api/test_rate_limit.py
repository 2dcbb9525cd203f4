"""How often a key may call: counted per key, told in headers, and an answer of its own when it is too often."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tests.support import Gateway, ScriptedUpstream

from .bed import Answer, Bed, adapter, yaml

LIMIT = 4
#: A minute, and the whole second in which a request was counted.
LONGEST_WAIT_S = 61
#: A key for each test, so that none uses up another's.
KEYS = [f"key-{number}" for number in range(40)]


@pytest.fixture(scope="module")
def limited() -> Iterator[Bed]:
    """A gateway that admits four requests per key and minute."""
    with ScriptedUpstream() as upstream:
        config = yaml(adapters={"a": adapter(upstream, ["m"])})
        env = {"API_KEYS": ",".join(KEYS), "RATE_LIMIT_REQUESTS": str(LIMIT)}
        with Gateway(config_yaml=config, env=env) as gateway:
            yield Bed(gateway, {"a": upstream})


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A key that no other test uses; not within a second of a full minute, where the windows of the count meet."""
    if (left_s := 60 - time.time() % 60) < 1:
        time.sleep(left_s + 0.01)
    taken: list[str] = request.config.stash.setdefault(TAKEN, list(KEYS))
    return taken.pop()


TAKEN = pytest.StashKey[list[str]]()


def counts(answer: Answer) -> tuple[str | None, str | None]:
    """Limit and what remains of it, as the headers tell."""
    return answer.header("x-ratelimit-limit-requests"), answer.header("x-ratelimit-remaining-requests")


def seconds(duration: str | None) -> float:
    """What a duration in OpenAI's notation amounts to."""
    found = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?|(\d+)ms", duration or "none")
    assert found, duration
    minutes, whole, thousandths = (int(each or 0) for each in found.groups())
    return minutes * 60 + whole + thousandths / 1000


def test_what_is_left_counts_down(limited: Bed, key: str) -> None:
    answers = [limited.ask("m", key=key) for _ in range(LIMIT)]

    assert [answer.status for answer in answers] == [200] * LIMIT
    assert [counts(answer) for answer in answers] == [("4", "3"), ("4", "2"), ("4", "1"), ("4", "0")]
    for answer in answers:
        assert 0 < seconds(answer.header("x-ratelimit-reset-requests")) <= LONGEST_WAIT_S


def test_one_request_too_many(limited: Bed, key: str) -> None:
    for _ in range(LIMIT):
        limited.ask("m", key=key)
    before = len(limited.a.requests)

    answer = limited.ask("m", key=key)

    assert answer.status == 429
    assert (answer.error["type"], answer.error["code"], answer.error["param"]) == (
        "requests",
        "rate_limit_exceeded",
        None,
    )
    assert "4 requests per minute" in answer.error["message"]
    assert 1 <= int(answer.header("retry-after") or 0) <= LONGEST_WAIT_S
    assert counts(answer) == ("4", "0")
    # The first request to leave the window makes room; the reset is when the last one has left. Both are rounded.
    assert int(answer.header("retry-after") or 0) - 1 <= seconds(answer.header("x-ratelimit-reset-requests"))
    assert len(limited.a.requests) == before
    record = limited.record_of(answer)
    assert (record["status"], record["error"], record["attempts"]) == (429, "rate_limit_exceeded", 0)


def test_streams_and_lists_count_as_well(limited: Bed, key: str) -> None:
    answers = [
        limited.ask("m", key=key, stream=True), limited.get("/v1/models", key=key), limited.get("/v1/models/m", key=key)
    ]  # fmt: skip

    assert [answer.header("x-ratelimit-remaining-requests") for answer in answers] == ["3", "2", "1"]


def test_requests_that_fail_count_as_well(limited: Bed, key: str) -> None:
    answers = [limited.ask("unknown", key=key), limited.post(b"not json", key=key)]

    assert [answer.status for answer in answers] == [404, 400]
    assert [answer.header("x-ratelimit-remaining-requests") for answer in answers] == ["3", "2"]


def test_keys_are_counted_apart(limited: Bed, key: str) -> None:
    for _ in range(LIMIT + 1):
        last = limited.ask("m", key=key)
    assert last.status == 429

    assert counts(limited.ask("m", key=KEYS[0])) == ("4", "3")


def test_strangers_and_probes_do_not_count(limited: Bed, key: str) -> None:
    for _ in range(LIMIT + 2):
        limited.ask("m", key=f"{key}x")
        assert limited.get("/health", key=key).status == 200

    assert counts(limited.ask("m", key=key)) == ("4", "3")


def test_the_official_client_raises_its_class(limited: Bed, key: str) -> None:
    with openai.OpenAI(base_url=limited.gateway.base_url, api_key=key, max_retries=0) as client:
        for _ in range(LIMIT):
            client.models.list()

        with pytest.raises(openai.RateLimitError) as caught:
            client.models.list()

    assert caught.value.code == "rate_limit_exceeded"


def test_the_wait_that_is_told_is_one_that_official_clients_obey(limited: Bed, key: str) -> None:
    """They obey a minute at the most."""
    for _ in range(LIMIT):
        limited.ask("m", key=key)

    wait_s = int(limited.ask("m", key=key).header("retry-after") or 0)

    assert 1 <= wait_s <= 60


def test_a_burst_at_once_is_admitted_exactly(limited: Bed, key: str) -> None:
    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(lambda _: limited.ask("m", key=key).status, range(12)))

    assert sorted(statuses) == [200] * LIMIT + [429] * (12 - LIMIT)


def test_without_a_limit_nothing_is_counted() -> None:
    env = {"RATE_LIMIT_ENABLED": "false", "RATE_LIMIT_REQUESTS": "1"}
    with Gateway(env=env) as gateway:
        answers = [Bed(gateway, {}).get("/v1/models") for _ in range(5)]

    assert [answer.status for answer in answers] == [200] * 5
    assert not [name for answer in answers for name, _ in answer.headers if "ratelimit" in name]


def test_the_limit_is_100_by_itself() -> None:
    with Gateway() as gateway:
        assert counts(Bed(gateway, {}).get("/v1/models")) == ("100", "99")
