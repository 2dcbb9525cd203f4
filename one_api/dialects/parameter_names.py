"""What the dialects call one parameter, and what becomes of a word of one in a request of another.

Errors name parameters in the words of the client's door, whatever the dialect in which they were refused. A word of
another dialect that would change the answer is refused with what is said here in its place: unlike a word that nobody
knows, it was meant, and without it the client would get another answer than it asked for.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from one_api.dialects.json import JSONObject
from one_api.errors import GatewayError, InvalidRequest

#: Chat's paths in the words of Responses. Here and below the longer of two that begin alike comes first.
_RESPONSES_PATHS = {
    "logprobs": "include",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "stream_options": "stream",
    "tool_choice.allowed_tools": "tool_choice",
    "tool_choice.function": "tool_choice",
    "verbosity": "text.verbosity",
}
#: Chat's paths in the words of Messages.
_MESSAGES_PATHS = {
    "max_completion_tokens": "max_tokens",
    "reasoning_effort": "output_config.effort",
    "response_format.json_schema": "output_config.format",
    "response_format": "output_config.format",
    "stop": "stop_sequences",
    "stream_options": "stream",
    "tool_choice.function": "tool_choice",
    "user": "metadata.user_id",
}
_QUOTED = re.compile(r"`([a-z_]+[^`\s]{0,200})`")
_FUNCTION = re.compile(r"tools(?:\[(\d+)\])?\.function\b")
#: A place in one of the lists of a request, in the forms in which servers write such: ``messages[3].content[0].type``,
#: ``messages.3.content``, ``body -> messages -> 3``.
_PLACE = re.compile(
    r"\b(?:messages|input|tools|functions|system|contents)(?:(?:[./]|\s*->\s*)?\[\d+\]|(?:[./]|\s*->\s*)\w+)*"
)
_NUMBER = re.compile(r"(?:[./]|\s*->\s*)?\[\d+\]|(?:[./]|\s*->\s*)\d+\b")

_CHAT = "There is nothing of the kind here: ask at /v1/chat/completions."
#: By dialect, words of the others, and what helps. What a conversation stands in is not among them: clients that send
#: one request to several doors give it under each name.
IN_RESPONSES: Mapping[str, str] = {
    "system": "Use `instructions` instead.",
    "max_tokens": "Use `max_output_tokens` instead.",
    "max_completion_tokens": "Use `max_output_tokens` instead.",
    "response_format": "Use `text.format` instead.",
    "output_format": "Use `text.format` instead.",
    "output_config": "Use `text.format` and `reasoning.effort` instead.",
    "reasoning_effort": "Use `reasoning.effort` instead.",
    "thinking": "Use `reasoning` instead.",
    "verbosity": "Use `text.verbosity` instead.",
    "functions": "Use `tools` instead.",
    "function_call": "Use `tool_choice` instead.",
    "web_search_options": "Use a tool of the type `web_search` instead.",
    "logprobs": "Use `include` with `message.output_text.logprobs` instead.",
    "stop": _CHAT,
    "stop_sequences": _CHAT,
    "n": _CHAT,
    "audio": _CHAT,
    "modalities": _CHAT,
}
IN_MESSAGES: Mapping[str, str] = {
    "instructions": "Use `system` instead.",
    "previous_response_id": "Nothing is kept here: send the whole history in `messages`.",
    "max_completion_tokens": "Use `max_tokens` instead.",
    "max_output_tokens": "Use `max_tokens` instead.",
    "stop": "Use `stop_sequences` instead.",
    "response_format": "Use `output_config.format` instead.",
    "text": "Use `output_config.format` instead.",
    "reasoning_effort": "Use `output_config.effort` instead.",
    "reasoning": "Use `thinking` instead.",
    "functions": "Use `tools` instead.",
    "function_call": "Use `tool_choice` instead.",
    "parallel_tool_calls": "Use `tool_choice.disable_parallel_tool_use` instead.",
    "web_search_options": _CHAT,
    "logprobs": _CHAT,
    "top_logprobs": _CHAT,
    "n": _CHAT,
    "audio": _CHAT,
    "modalities": _CHAT,
}
#: For chat requests that are translated; a server that speaks chat judges for itself what it knows.
IN_CHAT: Mapping[str, str] = {
    "instructions": "Use a message with the role `system` instead.",
    "system": "Use a message with the role `system` instead.",
    "previous_response_id": "Send the whole history in `messages`, or ask at /v1/responses.",
    "max_output_tokens": "Use `max_completion_tokens` instead.",
    "stop_sequences": "Use `stop` instead.",
    "text": "Use `response_format` and `verbosity` instead.",
    "output_format": "Use `response_format` instead.",
}
#: What asks for nothing, beside null, false and what is empty.
_HARMLESS: Mapping[str, Any] = {"n": 1, "modalities": ["text"], "verbosity": "medium"}


def find_foreign(body: JSONObject, words: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the first word of another dialect in a request that would change the answer, and what helps."""
    for name, value in body.items():
        if name in words and asks_for(name, value):
            return name, words[name]
    return None


def refuse_foreign(body: JSONObject, words: Mapping[str, str]) -> None:
    """Raise InvalidRequest for the first word of another dialect, in OpenAI's words for that."""
    if found := find_foreign(body, words):
        name, help_text = found
        message = f"Unsupported parameter: `{name}`. {help_text}"
        raise InvalidRequest(message, param=name, code="unsupported_parameter")


def is_foreign(error: GatewayError, words: Mapping[str, str]) -> bool:
    """Return whether an error refuses a word of another dialect: it names that word, and what helps."""
    help_text = words.get(error.param or "")
    return help_text is not None and error.message.endswith(help_text)


def asks_for(name: str, value: Any) -> bool:
    """Return whether a parameter with this value asks for anything."""
    if name == "parallel_tool_calls":  # the one of which true is the default
        return value is False
    if name == "web_search_options" and value == {}:  # it asks for a search as it is by default
        return True
    return value is not None and value is not False and value not in ("", [], {}) and value != _HARMLESS.get(name)


def in_responses(path: str) -> str:
    """Return one of chat's paths in the words of Responses."""
    return _FUNCTION.sub(lambda tool: f"tools[{tool[1]}]" if tool[1] else "tools", _renamed(path, _RESPONSES_PATHS))


def in_messages(path: str) -> str:
    """Return one of chat's paths in the words of Messages."""
    if tool := _FUNCTION.match(path):
        return ("tools" if tool[1] is None else f"tools.{tool[1]}") + path[tool.end() :].replace(
            ".parameters", ".input_schema", 1
        )
    return _renamed(path, _MESSAGES_PATHS)


def _renamed(path: str, names: Mapping[str, str]) -> str:
    for name, own in names.items():
        if path == name or path.startswith((f"{name}.", f"{name}[")):
            return own + path[len(name) :]
    return path


def without_positions(text: str) -> str:
    """Return a path, or a message with paths in it, without the numbers of messages, parts and tools.

    For what is said of lists that are not the client's own: it would count otherwise.
    """
    return _PLACE.sub(lambda place: _NUMBER.sub("", place[0]), text)


def with_own_names(message: str, rename: Callable[[str], str]) -> str:
    """Return a message with the paths in it, which stand in backticks, in a door's own words."""
    return _QUOTED.sub(lambda quoted: f"`{rename(quoted[1])}`", message)
