"""What a request may ask of the cache, and which answers are kept."""

import os
from pathlib import Path
from typing import Any

import pytest

from one_api.cache.policy import CacheDirectives, CachePolicy, is_plain, may_be_kept
from one_api.config import Config, ConfigError
from one_api.settings.sections import CacheConfig, GroupCacheConfig


@pytest.mark.parametrize(
    "header, directives",
    [
        (None, CacheDirectives()),
        ("", CacheDirectives()),
        ("no-cache", CacheDirectives(no_cache=True)),
        ("No-Store", CacheDirectives(no_store=True)),
        ("max-age=60", CacheDirectives(max_age_s=60)),
        (' max-age = "60" , no-transform', CacheDirectives(max_age_s=60)),
        ("max-age=0", CacheDirectives(no_cache=True, max_age_s=0)),
        ("max-age=soon", CacheDirectives(no_cache=True, max_age_s=0)),
        ("max-age=-1", CacheDirectives(no_cache=True, max_age_s=0)),
        ("max-age=\u0663", CacheDirectives(no_cache=True, max_age_s=0)),
        ("max-age=" + "9" * 10_000, CacheDirectives(max_age_s=999_999_999_999)),
        ("no-cache, no-store, max-age=5", CacheDirectives(True, True, 5)),
        (",,=,;", CacheDirectives()),
    ],
)
def test_cache_control_is_read(header: str | None, directives: CacheDirectives) -> None:
    assert CacheDirectives.read(header) == directives


def test_a_group_says_only_what_it_does_differently() -> None:
    common = CacheConfig(enabled=True, ttl_s=60, store_tool_calls=True)
    assert CachePolicy.of(common, GroupCacheConfig()) == CachePolicy(True, 60, "key", True, True)
    own = GroupCacheConfig(enabled=False, ttl_s=5, scope="shared", store_tool_calls=False, single_flight=False)
    assert CachePolicy.of(common, own) == CachePolicy(False, 5, "shared", False, False)


@pytest.mark.parametrize(
    "section, problem",
    [
        ("cache: {storage: disk}", "cache.storage: names no storage"),
        ("cache: {scope: team}", "cache.scope: has a bad value"),
        ("cache: {ttl_s: 0}", "cache.ttl_s: has a bad value"),
        ("cache: {ttl: 5}", "cache.ttl: is not a setting"),
        ("model_groups: {g: {targets: [a/m], cache: {storage: memory}}}", "cache.storage: is not a setting"),
    ],
)
def test_a_bad_setting_is_named(section: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"adapters: {{a: {{type: openai, models: [m]}}}}\n{section}\n")
    with pytest.raises(ConfigError, match=problem):
        Config.load({"ONE_API_CONFIG": str(path), "ONE_API_ENV_FILE": os.devnull})


def answer(*choices: dict[str, Any]) -> dict[str, Any]:
    """A completion with these choices."""
    return {"id": "x", "choices": list(choices)}


def choice(content: Any = "Hi", finish: Any = "stop", **message: Any) -> dict[str, Any]:
    """One choice."""
    return {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}


CALL = {"tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}


@pytest.mark.parametrize(
    "kept, found",
    [
        (True, answer(choice())),
        (True, answer(choice(refusal=None, reasoning_content="hm"))),
        (False, answer(choice(finish="length"))),
        (False, answer(choice(finish="content_filter"))),
        (False, answer(choice(finish="odd"))),
        (False, answer(choice(finish=None))),
        (False, answer(choice(refusal="No."))),
        (False, answer(choice(""))),
        (False, answer(choice(None))),
        (False, answer(choice([{"type": "text"}]))),
        (False, answer(choice(None, "tool_calls", **CALL))),
        (False, answer(choice("Hi", "stop", **CALL))),
        (False, answer(choice(), choice(finish="length"))),
        (False, answer()),
        (False, {}),
        (False, {"choices": ["text"]}),
    ],
)
def test_only_answers_that_are_complete_and_good_are_kept(kept: bool, found: dict[str, Any]) -> None:
    assert may_be_kept(found, tool_calls=False) is kept


def test_calls_of_tools_are_kept_when_asked_for() -> None:
    assert may_be_kept(answer(choice(None, "tool_calls", **CALL)), tool_calls=True)
    legacy = choice(None, "function_call", function_call={"name": "f", "arguments": "{}"})
    assert may_be_kept(answer(legacy), tool_calls=True)
    assert not may_be_kept(answer(choice(None, "length", **CALL)), tool_calls=True)
    assert not may_be_kept(answer(choice(None, "tool_calls")), tool_calls=True)


def chunk(delta: dict[str, Any], choice: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A chunk with one choice, and what else it holds."""
    return {"id": "x", "choices": [{"index": 0, "delta": delta, **(choice or {})}], **fields}


PLAIN: dict[str, dict[str, Any]] = {
    "role": chunk({"role": "assistant", "content": ""}),
    "text": chunk({"content": "a", "reasoning_content": None, "audio": None}),
    "reasoning": chunk({"reasoning_content": "hm"}),
    "calls": chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}),
    "logprobs": chunk({"content": "a"}, {"logprobs": {"content": [{"token": "a"}], "refusal": None}}),
    "end": chunk({}, {"finish_reason": "stop", "native_finish_reason": "end_turn", "stop_reason": None}),
    "usage": {"id": "x", "choices": [], "usage": {"prompt_tokens": 1}},
    "head": chunk({}, object="o", created=7, model="m", system_fingerprint="f", service_tier="t", provider="p"),
    "padding": chunk({"content": "a"}, obfuscation="xyz", p="abc", x_groq={"id": "r"}),
}
NOT_PLAIN: dict[str, dict[str, Any]] = {
    "audio": chunk({"audio": {"data": "x"}}),
    "content in parts": chunk({"content": [{"type": "thinking", "thinking": []}]}),
    "reasoning in parts": chunk({"reasoning_content": [{"type": "text"}]}),
    "filters": chunk({"content": "a"}, {"content_filter_results": {"hate": {"filtered": False}}}),
    "filters of the prompt": {"choices": [], "prompt_filter_results": [{}]},
    "token ids": chunk({"content": "a"}, {"token_ids": [1]}),
    "citations": chunk({"content": "a"}, citations=["https://a"]),
    "search results": chunk({"content": "a"}, search_results=[{}]),
    "logprobs of another form": chunk({"content": "a"}, {"logprobs": {"tokens": ["a"]}}),
    "logprobs of no form": chunk({"content": "a"}, {"logprobs": [1]}),
}


def test_a_stream_that_one_message_holds_is_told() -> None:
    assert is_plain(PLAIN.values())


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_a_stream_with_more_than_a_message_holds_is_told(name: str) -> None:
    assert not is_plain([*PLAIN.values(), NOT_PLAIN[name]])
