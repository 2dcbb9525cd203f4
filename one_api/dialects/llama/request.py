"""What the local engine is asked, made from an OpenAI request.

The engine believes almost anything: a temperature of -1, an unlimited answer, the slot that the client would like. So
what it gets is an allow-list, and the values are checked here. What has no effect on the answer is left out without a
word; what would have one and cannot be done is refused, or named in a warning.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from one_api.dialects.json import JSONObject
from one_api.dialects.llama.parameters import DECIMALS, SAMPLING, check_values, given_in, stop_strings, wrong_type
from one_api.dialects.llama.schema import constrained
from one_api.dialects.parameter_names import IN_CHAT, asks_for, refuse_foreign
from one_api.errors import InvalidRequest

#: Parameter -> its bounds, as OpenAI has them.
_INTEGERS = {
    "max_tokens": (1, 2**63 - 1), "max_completion_tokens": (1, 2**63 - 1), "n": (1, 128), "top_logprobs": (0, 20),
    "seed": (-(2**63), 2**63 - 1), "top_k": (0, 1_000_000), "repeat_last_n": (-1, 1_000_000),
}  # fmt: skip
_OTHERS: dict[str, tuple[type, str]] = {
    "logprobs": (bool, "a boolean"),
    "parallel_tool_calls": (bool, "a boolean"),
    "cache_prompt": (bool, "a boolean"),
    "logit_bias": (dict, "an object"),
    "chat_template_kwargs": (dict, "an object"),
    "response_format": (dict, "an object"),
    "reasoning_effort": (str, "a string"),
    "grammar": (str, "a string"),
}
#: What the engine is sent as it came.
_SENT = (
    (DECIMALS.keys() | _INTEGERS.keys() | _OTHERS.keys() | {"tools", "tool_choice"})
    - {"n", "max_tokens", "max_completion_tokens", "seed"}
)  # fmt: skip
#: What changes nothing in an answer of a local model.
_WITHOUT_EFFECT = frozenset(
    [
        "user", "safety_identifier", "metadata", "store", "service_tier", "prediction", "verbosity", "modalities",
        "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "stream", "stream_options", "n", "seed",
        "max_tokens", "max_completion_tokens", "model", "messages", "stop",
    ]
)  # fmt: skip
#: What asks for something that a local model cannot do, and what helps.
_IMPOSSIBLE = {
    "audio": "Local models answer in text only: leave it out.",
    "functions": "Use `tools` instead.",
    "function_call": "Use `tool_choice` instead.",
    "web_search_options": "Local models cannot search the web: leave it out.",
    "moderation": "Local models are not moderated: leave it out.",
}
#: A name that can be put into a header.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}").fullmatch
#: More names than this are not put there.
_MAX_DROPPED = 20
_FORMATS = ("text", "json_object", "json_schema")
#: The engine takes the largest seed for "choose one".
_SEEDS = 2**32 - 1
#: Claude Code puts a number of the day's making there, which would spoil the engine's prompt cache.
_BILLING = "x-anthropic-billing-header"


@dataclass(frozen=True, slots=True)
class LocalRequest:
    """A checked request: the engine's ``body``, but for the seed of each choice.

    ``dropped`` names the parameters that were left out although they might have had an effect.
    """

    body: JSONObject
    n: int
    seed: int | None
    dropped: list[str]
    #: How many of the likeliest tokens are listed at each place.
    top_logprobs: int

    def seed_of(self, index: int) -> JSONObject:
        """Return what one of the ``n`` choices adds: their seeds differ, so that the choices differ."""
        return {} if self.seed is None else {"seed": (self.seed + index) % _SEEDS}


@dataclass(frozen=True, slots=True)
class Model:
    """What a request has to know of the model: its slot's context and the default length of an answer in tokens."""

    context_tokens: int
    default_max_tokens: int
    #: Values for parameters that the request does not give.
    sampling: Mapping[str, float] = field(default_factory=dict)


def read_request(body: JSONObject, model: Model) -> LocalRequest:
    """Check ``body`` and return what the engine is asked.

    Raises:
        InvalidRequest: naming the first thing that is wrong, or that the engine cannot do, by ``param``.
    """
    given = given_in(body)
    _check_parameters(given)
    most = min(given.get("max_completion_tokens") or given.get("max_tokens") or model.default_max_tokens,
               model.context_tokens)  # fmt: skip
    sent = {key: value for key, value in given.items() if key in _SENT}
    read = [_message(message, i) for i, message in enumerate(body["messages"])]
    messages = [message for message in read if not _is_billing(message)] or read
    top_logprobs = given.get("top_logprobs", 0)
    if given.get("logprobs"):
        sent["top_logprobs"] = max(1, top_logprobs)  # the engine takes 0 for none at all, and nothing for 20
    asked = {**SAMPLING, **model.sampling, **sent, "messages": messages, "max_tokens": most, "stream": True}
    asked |= stop_strings(given)
    if (wanted := _schema_of(sent.get("response_format"))) is not None:
        asked = {key: value for key, value in asked.items() if key != "response_format"} | constrained(*wanted)
    dropped = [key for key in given if key not in _SENT and key not in _WITHOUT_EFFECT and _NAME(key)]
    refuse_foreign({key: given[key] for key in dropped}, IN_CHAT)
    return LocalRequest(asked, given.get("n", 1), given.get("seed"), dropped[:_MAX_DROPPED], top_logprobs)


def _check_parameters(given: JSONObject) -> None:
    for key, help_text in _IMPOSSIBLE.items():
        if key in given and asks_for(key, given[key]):
            raise InvalidRequest(
                f"`{key}` cannot be used with a local model. {help_text}", param=key, code="unsupported_parameter"
            )
        given.pop(key, None)
    check_values(given, _INTEGERS, _OTHERS)
    if given.get("top_logprobs") and not given.get("logprobs"):
        raise InvalidRequest("`top_logprobs` is only allowed with `logprobs: true`.", param="top_logprobs")
    if "parallel_tool_calls" in given and not given.get("tools"):
        raise InvalidRequest(
            "`parallel_tool_calls` is only allowed when `tools` are given.", param="parallel_tool_calls"
        )
    _check_modalities(given.get("modalities"))
    _check_format(given.get("response_format"))
    if given.get("grammar") and _schema_of(given.get("response_format")):
        message = "An answer can follow `grammar` or the schema in `response_format`, not both."
        raise InvalidRequest(message, param="grammar", code="invalid_value")
    _check_tools(given.get("tools") or [])


def _check_modalities(modalities: Any) -> None:
    if modalities is not None and modalities != ["text"]:
        raise InvalidRequest(
            "Local models answer in text only: leave `modalities` out.", param="modalities", code="unsupported_value"
        )


def _check_format(wanted: Any) -> None:
    """Check ``response_format`` as far as the engine would take a mistake for something else."""
    if wanted is None:
        return
    if wanted.get("type") not in _FORMATS:
        raise InvalidRequest(
            f"Invalid value for `response_format.type`. Supported values are: {', '.join(_FORMATS)}.",
            param="response_format.type",
            code="invalid_value",
        )
    if wanted["type"] == "json_schema" and not isinstance(wanted.get("json_schema"), dict):
        raise wrong_type("response_format.json_schema", "an object")
    if (found := _schema_of(wanted)) is not None and not isinstance(found[0], dict):
        raise wrong_type(found[1], "an object")


def _schema_of(wanted: Any) -> tuple[Any, str] | None:
    """Return the schema in a ``response_format`` and its place; None when it holds none."""
    if wanted is None or wanted["type"] == "text":
        return None
    if wanted["type"] == "json_schema":
        return wanted["json_schema"].get("schema", {}), "response_format.json_schema.schema"
    return (wanted["schema"], "response_format.schema") if wanted.get("schema") is not None else None


def _check_tools(tools: list[Any]) -> None:
    """Check what the engine would call a fault of its own."""
    for i, tool in enumerate(tools):
        where = f"tools[{i}]"
        if not isinstance(tool, dict):
            raise wrong_type(where, "an object")
        if tool.get("type") != "function":
            raise InvalidRequest(
                f"Local models know tools of type `function` only: change `{where}.type`.",
                param=f"{where}.type",
                code="unsupported_value",
            )
        function = tool.get("function")
        if not isinstance(function, dict):
            raise wrong_type(f"{where}.function", "an object")
        if not isinstance(function.get("name"), str) or not function["name"]:
            raise wrong_type(f"{where}.function.name", "a string that is not empty")
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, dict):
            raise wrong_type(f"{where}.function.parameters", "an object")


def _message(message: JSONObject, i: int) -> JSONObject:
    """Return one message as the engine reads it; refusals become text."""
    parts = message.get("content")
    if isinstance(parts, list):
        message = message | {"content": [_part(part, f"messages[{i}].content[{j}]") for j, part in enumerate(parts)]}
    for j, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") if isinstance(call, dict) else None
        where = f"messages[{i}].tool_calls[{j}].function"
        if not isinstance(function, dict):
            raise wrong_type(where, "an object")
        for key in ("name", "arguments"):
            if not isinstance(function.get(key), str):
                raise wrong_type(f"{where}.{key}", "a string")
    if message.get("tool_calls"):
        message = message | {"tool_calls": [{"type": "function"} | call for call in message["tool_calls"]]}
    return message


def _part(part: JSONObject, where: str) -> JSONObject:
    kind = part["type"]
    if kind not in ("text", "refusal"):
        raise InvalidRequest(
            f"Local models read text only, not `{kind}`.", param=f"{where}.type", code="unsupported_value"
        )
    if not isinstance(part.get(kind), str):
        raise wrong_type(f"{where}.{kind}", "a string")
    return {"type": "text", "text": part[kind]}


def _is_billing(message: JSONObject) -> bool:
    """Return whether a system message is only a header of a client's that no model should read."""
    content = message.get("content")
    return message["role"] == "system" and isinstance(content, str) and content.startswith(_BILLING)
