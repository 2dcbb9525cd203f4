"""Tokens of audio, images and video have prices of their own: in the ledger, the header, and what budgets reserve."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Engine

from one_api.accounts.database import open_engine
from one_api.accounts.money import dollars
from tests.accounts.patient import PatientBed
from tests.accounts.test_budgets import Account, row_of
from tests.accounts.test_doors import DOORS, Door, ask
from tests.api.bed import Answer, Bed, adapter, user, yaml
from tests.support import (
    Gateway,
    ScriptedUpstream,
    completion,
    json_reply,
    reply,
    sse,
    text_chunks,
)

#: In nano-dollars for a token: text 5,000, 1,000 cached, 7,000; audio 32,000, 400, 64,000; images 8,000, 2,000, 30,000;
#: video 11,000, also cached, and 7,000.
PRICES: Any = {
    "models": {
        "a/*": {
            "input": 5,
            "cached_input": 1,
            "output": 7,
            "audio": {"input": 32, "cached_input": 0.4, "output": 64},
            "image": {"input": 8, "cached_input": 2, "output": 30},
            "video": {"input": 11},
        }
    }
}
MODELS = [f"m-{number}" for number in range(60)]


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """A gateway over one upstream, with a database of SQLite."""
    database = f"sqlite:///{tmp_path_factory.mktemp('modalities')}/one_api.db"
    with ScriptedUpstream() as a:
        gateway = Gateway(
            env={"DATABASE_URL": database, "RATE_LIMIT_ENABLED": "false"},
            config_yaml=yaml(adapters={"a": adapter(a, [*MODELS])}, prices=PRICES),
        )
        with gateway:
            running = PatientBed(gateway, {"a": a})
            running.engine = open_engine(database, Path())  # type: ignore[attr-defined]
            yield running


@pytest.fixture(scope="module")
def engine(bed: Bed) -> Engine:
    """The gateway's database, from outside."""
    return bed.engine  # type: ignore[attr-defined,no-any-return]


_models = iter(MODELS)


@pytest.fixture
def model() -> str:
    """A model that no other test asks for."""
    return next(_models)


class Counted(NamedTuple):
    """What an upstream counts at a door, what that costs in nano-dollars, and which of it the row has apart."""

    door: str
    usage: dict[str, Any]
    cost: int
    #: Of each modality: prompt, cached, completion.
    parts: dict[str, tuple[int, int, int]]


def newer(prompt: int, said: int, **details: Any) -> dict[str, Any]:
    """Usage in OpenAI's newer words."""
    return {"input_tokens": prompt, "output_tokens": said, "total_tokens": prompt + said, **details}


def older(prompt: int, said: int, asked: dict[str, Any], answered: dict[str, Any]) -> dict[str, Any]:
    """Usage in the words of chat."""
    counts = {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}
    return counts | {"prompt_tokens_details": asked, "completion_tokens_details": answered}


COUNTED = {
    "audio in chat": Counted(
        "chat",
        older(100, 50, {"audio_tokens": 80, "text_tokens": 20}, {"audio_tokens": 40, "text_tokens": 10}),
        20 * 5_000 + 80 * 32_000 + 10 * 7_000 + 40 * 64_000,
        {"audio": (80, 0, 40)},
    ),
    "cached audio": Counted(
        "chat",
        older(
            100,
            0,
            {"audio_tokens": 80, "cached_tokens": 50, "cached_tokens_details": {"audio_tokens": 45, "text_tokens": 5}},
            {},
        ),
        15 * 5_000 + 5 * 1_000 + 35 * 32_000 + 45 * 400,
        {"audio": (80, 45, 0)},
    ),
    "more audio than there are tokens": Counted(
        "chat",
        older(10, 5, {"audio_tokens": 900, "image_tokens": 900}, {"audio_tokens": 10**12}),
        10 * 32_000 + 5 * 64_000,
        {"audio": (10, 0, 5)},
    ),
    "images in chat": Counted(
        "chat",
        older(300, 1300, {"image_tokens": 258}, {"image_tokens": 1290}),
        42 * 5_000 + 258 * 8_000 + 10 * 7_000 + 1290 * 30_000,
        {"image": (258, 0, 1290)},
    ),
    "video in chat": Counted(
        "chat",
        older(900, 20, {"video_tokens": 800, "audio_tokens": 90, "cached_tokens": 300}, {"video_tokens": 12}),
        # It is not said of what the cached tokens are: as much of them is text as there is of it.
        90 * 32_000 + (510 + 290) * 11_000 + 10 * 1_000 + 20 * 7_000,
        {"audio": (90, 0, 0), "video": (800, 0, 12)},
    ),
    "only text": Counted("chat", older(9, 3, {"audio_tokens": 0}, {"audio_tokens": 0}), 9 * 5_000 + 3 * 7_000, {}),
    "Gemini's lists": Counted(
        "chat",
        {
            "promptTokenCount": 100,
            "candidatesTokenCount": 30,
            "totalTokenCount": 130,
            "cachedContentTokenCount": 10,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 20},
                {"modality": "AUDIO", "tokenCount": 60},
                {"modality": "IMAGE", "tokenCount": 15},
                {"modality": "VIDEO", "tokenCount": 5},
            ],
            "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 10}],
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 25}, {"modality": "TEXT", "tokenCount": 5}],
        },
        20 * 5_000 + 50 * 32_000 + 10 * 400 + 15 * 8_000 + 5 * 11_000 + 5 * 7_000 + 25 * 30_000,
        {"audio": (60, 10, 0), "image": (15, 0, 25), "video": (5, 0, 0)},
    ),
    "an image": Counted(
        "images",
        newer(
            50,
            4170,
            input_tokens_details={"text_tokens": 50, "image_tokens": 0},
            output_tokens_details={"image_tokens": 4160, "text_tokens": 10},
        ),
        50 * 5_000 + 10 * 7_000 + 4160 * 30_000,
        {"image": (0, 0, 4160)},
    ),
    "an image of which no more is told": Counted(
        "images", newer(50, 4160), 50 * 5_000 + 4160 * 30_000, {"image": (0, 0, 4160)}
    ),
    "an edited image": Counted(
        "edits",
        newer(
            250,
            100,
            input_tokens_details={
                "text_tokens": 50,
                "image_tokens": 200,
                "cached_tokens": 60,
                "cached_tokens_details": {"text_tokens": 10, "image_tokens": 50},
            },
        ),
        40 * 5_000 + 10 * 1_000 + 150 * 8_000 + 50 * 2_000 + 100 * 30_000,
        {"image": (200, 50, 100)},
    ),
    "a recording": Counted(
        "transcriptions",
        newer(14, 45, type="tokens", input_token_details={"text_tokens": 4, "audio_tokens": 10}),
        4 * 5_000 + 10 * 32_000 + 45 * 7_000,
        {"audio": (10, 0, 0)},
    ),
    "a recording of which no more is told": Counted(
        "transcriptions", newer(14, 45), 14 * 32_000 + 45 * 7_000, {"audio": (14, 0, 0)}
    ),
}


def answer_at(door: Door, usage: dict[str, Any]) -> Any:
    """An upstream's answer with this usage."""
    if door is DOORS["chat"]:
        return json_reply(completion("x", usage=usage))
    whole = {"text": "hi"} if door is DOORS["transcriptions"] else {"created": 1, "data": [{"b64_json": "aGk="}]}
    return json_reply(whole | {"usage": usage})


@pytest.fixture(scope="module")
def asked(bed: Bed, engine: Engine) -> dict[str, tuple[Account, Answer]]:
    """Accounts that each have asked for one of them, with the answer: rows are written once a second."""
    found = {}
    for name, counted in COUNTED.items():
        account, model, door = Account(engine, 1000), next(_models), DOORS[counted.door]
        bed.a.on(model, answer_at(door, counted.usage))
        found[name] = account, ask(bed, door, model, account.key)
    return found


@pytest.mark.parametrize("name", COUNTED)
def test_tokens_of_each_modality_have_their_price(asked: dict[str, tuple[Account, Answer]], name: str) -> None:
    counted, (account, answer) = COUNTED[name], asked[name]
    assert answer.status == 200, answer.body
    row = row_of(account)

    assert answer.header("x-gateway-cost") == dollars(counted.cost)
    assert (row["cost"], row["upstream_cost"]) == (counted.cost, counted.cost)
    parts = json.loads(row["modalities"] or "{}")
    assert {key: (each["prompt"], each["cached"], each["completion"]) for key, each in parts.items()} == counted.parts
    if "audio" in parts:
        assert parts["audio"]["rates"] == {"input": "32", "cached_input": "0.4", "output": "64"}


def test_a_stream_is_booked_by_modality(bed: Bed, engine: Engine, model: str) -> None:
    account = Account(engine, 1000)
    bed.a.on(model, sse(*text_chunks("a", "b", usage=older(10, 30, {"audio_tokens": 8}, {"audio_tokens": 28}))))

    bed.ask(model, key=account.key, stream=True, modalities=["text", "audio"])

    assert row_of(account)["cost"] == 2 * 5_000 + 8 * 32_000 + 2 * 7_000 + 28 * 64_000


def test_a_stream_of_images_is_booked_as_images(bed: Bed, engine: Engine, model: str) -> None:
    account = Account(engine, 1000)
    event = {
        "type": "image_generation.completed",
        "b64_json": "aGk=",
        "usage": newer(50, 20, input_tokens_details={"text_tokens": 48, "image_tokens": 2}),
    }
    written = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
    bed.a.on(model, reply(written, headers={"Content-Type": "text/event-stream"}))

    ask(bed, DOORS["images"], model, account.key, stream=True)

    assert row_of(account)["cost"] == 48 * 5_000 + 2 * 8_000 + 20 * 30_000


def test_details_that_are_far_in_a_long_answer_are_read(bed: Bed, engine: Engine, model: str) -> None:
    account = Account(engine, 1000)
    image = base64.b64encode(bytes(1_500_000)).decode()
    details = {"image_tokens": 30, "cached_tokens": 10, "cached_tokens_details": {"image_tokens": 10}}
    usage = newer(50, 20, input_tokens_details=details)
    bed.a.on(model, json_reply({"created": 1, "data": [{"b64_json": image}], "usage": usage}))

    assert ask(bed, DOORS["images"], model, account.key).status == 200

    assert row_of(account)["cost"] == 20 * 5_000 + 20 * 8_000 + 10 * 2_000 + 20 * 30_000


HEARD = {"type": "input_audio", "input_audio": {"data": base64.b64encode(bytes(25_600)).decode(), "format": "wav"}}
SEEN = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
WATCHED = {
    "type": "video_url",
    "video_url": {"url": f"data:video/mp4;base64,{base64.b64encode(bytes(99_000)).decode()}"},
}


#: What is asked for, and what a token of the answer, and of the prompt, may cost at most.
DEAR: dict[str, tuple[dict[str, Any], int, int]] = {
    "text": ({"modalities": ["text"]}, 7_000, 5_000),
    "speech": ({"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}, 64_000, 5_000),
    "an image": ({"modalities": ["image", "text"]}, 30_000, 5_000),
    "nothing": ({}, 30_000, 5_000),  # some models draw without being asked to
    "of a recording": ({"modalities": ["text"], "messages": [{"role": "user", "content": [HEARD]}]}, 7_000, 32_000),
    "of an image": ({"modalities": ["text"], "messages": [{"role": "user", "content": [SEEN]}]}, 7_000, 8_000),
    "of a video": ({"modalities": ["text"], "messages": [{"role": "user", "content": [WATCHED]}]}, 7_000, 11_000),
    "of speech before": (
        {"modalities": ["text"], "messages": [*user(), {"role": "assistant", "audio": {"id": "x"}}, *user()]},
        7_000,
        32_000,
    ),
}


@pytest.fixture(scope="module")
def reserved(bed: Bed, engine: Engine) -> dict[str, list[Account]]:
    """Two accounts for each of them: one has asked for ten tokens, the other for a thousand more."""
    found = {}
    for name, (fields, _, _) in DEAR.items():
        found[name], model = [Account(engine, 100_000), Account(engine, 100_000)], next(_models)
        bed.a.on(model, json_reply(completion("x", usage=older(1, 1, {}, {}))))
        for account, tokens in zip(found[name], (10, 1010), strict=True):
            assert bed.ask(model, key=account.key, max_tokens=tokens, **fields).status == 200
    return found


@pytest.mark.parametrize("name", DEAR)
def test_what_may_be_dear_is_reserved_at_that_price(reserved: dict[str, list[Account]], name: str) -> None:
    (short, long), (_, output, prompt) = reserved[name], DEAR[name]
    least, most = (row_of(account)["reserve"] for account in (short, long))

    assert most - least == 1000 * output
    asked = least - 10 * output
    assert asked % prompt == 0
    assert asked // prompt <= 2000  # a recording is not so many tokens as its base64 has bytes
    assert row_of(short)["cost"] == 12_000


@pytest.mark.parametrize(("name", "output"), [("images", 30_000), ("speech", 64_000), ("transcriptions", 7_000)])
def test_a_door_reserves_at_the_price_of_what_it_gives(
    bed: Bed, engine: Engine, model: str, name: str, output: int
) -> None:
    account, door = Account(engine, 1_000_000), DOORS[name]
    bed.a.on(model, door.answer(1))

    assert ask(bed, door, model, account.key).status == 200

    reserved = row_of(account)["reserve"] - 4096 * output
    assert 0 < reserved <= 1700 * 32_000
    assert reserved % (32_000 if name == "transcriptions" else 5_000) == 0


def test_an_image_without_usage_is_estimated_at_the_price_of_images(bed: Bed, engine: Engine, model: str) -> None:
    account = Account(engine, 1_000_000)
    bed.a.on(model, json_reply({"created": 1, "data": [{"b64_json": "aGk="}]}))

    ask(bed, DOORS["images"], model, account.key)
    row = row_of(account)

    assert row["estimated"] is True
    assert row["cost"] == row["reserve"] == row["prompt"] * 5_000 + 4096 * 30_000


def sound(seconds: int) -> dict[str, Any]:
    """A chunk with so much speech: 24,000 samples of two bytes each a second."""
    data = base64.b64encode(bytes(48_000 * seconds)).decode()
    delta = {"audio": {"id": "audio_1", "data": data}}
    return text_chunks("", finish=None)[-1] | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def test_speech_that_is_cut_is_charged_as_so_many_tokens_of_audio(bed: Bed, engine: Engine, model: str) -> None:
    account = Account(engine, 1_000_000)
    bed.a.on(model, sse(sound(1), sound(2), done=False))

    answer = bed.ask(model, key=account.key, stream=True, modalities=["text", "audio"], max_tokens=100)
    row = row_of(account)

    assert answer.stream_error is not None
    assert (row["status"], row["estimated"]) == ("interrupted", True)
    assert json.loads(row["modalities"])["audio"]["completion"] == 60
    assert 60 <= row["completion"] <= 100
    assert row["cost"] <= row["reserve"] == row["prompt"] * 5_000 + 100 * 64_000


def test_prices_are_shown(bed: Bed) -> None:
    (entry,) = [entry for entry in bed.get("/v1/models").json["data"] if entry["id"] == "m-0"]

    assert entry["pricing"] == {
        "prompt": "0.000005",
        "completion": "0.000007",
        "input_cache_read": "0.000001",
        "input_cache_write": "0.000005",
        "audio": "0.000032",
        "audio_output": "0.000064",
        "input_audio_cache": "0.0000004",
        "image_token": "0.000008",
        "image_output": "0.00003",
        "video": "0.000011",
        "video_output": "0.000007",
    }
