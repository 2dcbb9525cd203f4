"""Answers and chunks in other shapes than OpenAI's, brought into form: where choices stand, and what their text is."""

from collections.abc import Iterable
from typing import Any

from one_api.dialects import json
from one_api.dialects.characters import TextJoiner, all_whole
from one_api.dialects.json import JSONObject
from one_api.dialects.openai.calls import number_of
from one_api.dialects.payloads import InvalidAnswer, says_nothing, wrapped_answer

#: What only says which answer a chunk is of.
_ENVELOPE = frozenset({"id", "object", "created", "model", "system_fingerprint", "service_tier", "provider"})
#: Other names of ``reasoning_content``: OpenRouter's, vLLM's, Groq's and Ollama's; Copilot's; Ollama's own dialect's.
_REASONING = ("reasoning", "reasoning_text", "thinking")
#: Where some servers put a call, or a list of them.
_ONE_CALL = "tool_call"
_OTHER_NAMES = frozenset({*_REASONING, _ONE_CALL})
#: Where the reasoning stands in parts, often beside a text: OpenRouter's and MiniMax's; LiteLLM's.
_DETAILS = frozenset({"reasoning_details", "thinking_blocks"})
#: Kinds of parts that call a tool. Claude's, and others'.
_CALLS = frozenset({"tool_use", "tool_call", "function_call", "function"})
#: Where a part of a content holds its text.
_PART_TEXTS = ("text", "content", "value", "thinking", "reasoning", "summary")
#: Where Gemini says that it refuses a prompt, and for what reason.
_FEEDBACK, _BLOCK_REASONS = ("promptFeedback", "prompt_feedback"), ("blockReason", "block_reason")
#: Where a choice has its message, or its text, beside ``delta``.
MESSAGES = ("message", "text", "content", "messages")
_MAX_PARTS_DEPTH = 8
_MAX_CHOICES = 1024


def bring_choices(payload: JSONObject) -> list[JSONObject]:
    """Return the choices of an answer or chunk, which get their place in ``payload``; there may be none.

    Raises:
        InvalidAnswer: when it is neither.
    """
    choices = payload.get("choices")
    if not isinstance(choices, list):
        choices = payload["choices"] = _choices_elsewhere(payload)
    for choice in choices:
        if not isinstance(choice, dict):
            raise InvalidAnswer("a choice is not an object")
    if not choices and (reason := _refused_prompt(payload)):
        choices.append({"index": 0, "message": {}, "finish_reason": "content_filter", "native_finish_reason": reason})
    return choices


def _refused_prompt(payload: JSONObject) -> str | None:
    """Return for what reason the prompt was refused, where that is said in place of an answer (Gemini)."""
    feedback: JSONObject = next((payload[key] for key in _FEEDBACK if isinstance(payload.get(key), dict)), {})
    reason = next((feedback[key] for key in _BLOCK_REASONS if isinstance(feedback.get(key), str)), None)
    return reason or None


def _choices_elsewhere(payload: JSONObject) -> list[JSONObject]:
    choices = payload.pop("choices", None)
    if isinstance(choices, dict) and choices:
        return [choices]
    if choices:
        raise InvalidAnswer("its choices are no list")
    _unwrap(payload)
    if isinstance(payload.get("choices"), list):
        return list(payload["choices"])
    if isinstance(payload.get("candidates"), list):
        return [_of_gemini(each, i) for i, each in enumerate(payload.pop("candidates")) if isinstance(each, dict)]
    if choice := _native_choice(payload):
        return [choice]
    if (
        not _ENVELOPE.isdisjoint(payload)
        or _refused_prompt(payload)
        or isinstance(payload.get("usage"), dict)
        or says_nothing(payload)
    ):
        return []
    raise InvalidAnswer("it holds no choices")


def _unwrap(payload: JSONObject) -> None:
    """Take an answer out of its envelope, in place; what stands beside it in the envelope stays."""
    while (found := wrapped_answer(payload)) is not None:
        name, inner = found
        del payload[name]
        payload |= {key: value for key, value in inner.items() if payload.get(key) is None}


def _of_gemini(candidate: JSONObject, position: int) -> JSONObject:
    """Return a candidate, as Gemini's own dialect calls a choice; it is a piece of an answer, or all of it."""
    content = candidate.get("content")
    given = content.get("parts") if isinstance(content, dict) else None
    parts = [part for part in given if isinstance(part, dict)] if isinstance(given, list) else []
    texts = [part for part in parts if isinstance(part.get("text"), str)]
    delta: JSONObject = {
        "content": "".join(part["text"] for part in texts if part.get("thought") is not True),
        "reasoning_content": "".join(part["text"] for part in texts if part.get("thought") is True),
        "tool_calls": [
            {"function": part["functionCall"]} for part in parts if isinstance(part.get("functionCall"), dict)
        ],
    }
    delta = {name: value for name, value in delta.items() if value}
    index = candidate.get("index")
    return {
        "index": position if index is None else index,
        "delta": delta,
        "finish_reason": candidate.get("finishReason"),
    }


def _native_choice(payload: JSONObject) -> JSONObject | None:
    """Return the choice that stands in the answer itself, as in the dialects of Ollama and Cloudflare."""
    found = {key: payload.pop(key) for key in ("delta", "message") if isinstance(payload.get(key), dict)}
    if not found:
        found = _native_words(payload)
    if not found:
        return None
    done = next((payload.pop(key) for key in ("done", "stop") if isinstance(payload.get(key), bool)), None)
    if done is not None:  # it is a piece of an answer, perhaps the last or only one
        (words,) = list(found.values())[:1]
        found = {"delta": words}
    reason = payload.pop("finish_reason", None) or payload.pop("done_reason", None) or ("stop" if done else None)
    for name, count in (("prompt_tokens", "prompt_eval_count"), ("completion_tokens", "eval_count")):
        if isinstance(payload.get(count), int):
            payload["usage"] = (payload.get("usage") or {}) | {name: payload.pop(count)}
    return {"index": 0, **found, "finish_reason": reason if done in (None, True) else None}


def _native_words(payload: JSONObject) -> JSONObject:
    """Take text and calls out of an answer that has nothing around them, and return them as a choice has them."""
    name = next((key for key in ("response", "text", "content") if isinstance(payload.get(key), (str, dict))), None)
    calls = payload.pop("tool_calls", None)
    if name is None and not calls:
        return {}
    words = payload.pop(name) if name is not None else None
    if isinstance(words, dict):  # Cloudflare's JSON mode
        words = json.encode(words).decode()
    # DashScope sends all of its text so far in each chunk, unless it is asked not to.
    return {"message" if name == "text" else "text": {"content": words, "tool_calls": calls}}


def index_of(choice: JSONObject) -> int:
    """Return the number of a choice; 0 for what is not a number."""
    number = number_of(choice)
    return number if number is not None and 0 <= number < _MAX_CHOICES else 0


def with_whole_characters(payload: JSONObject, joiner: TextJoiner, names: Iterable[str]) -> JSONObject:
    """Return a chunk whose texts are whole; the beginning of a character in one of ``names`` waits in ``joiner``."""
    choices = payload.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if not isinstance(delta, dict):
            continue
        for name in names:
            if isinstance(delta.get(name), str):
                delta[name] = joiner.join((choice.get("index"), name), delta[name])
        for call in delta.get("tool_calls") or ():
            body = call.get("function") if isinstance(call, dict) else None
            if isinstance(body, dict) and isinstance(body.get("arguments"), str):
                key = (choice.get("index"), "tool_calls", call.get("index"))
                body["arguments"] = joiner.join(key, body["arguments"])
    return {key: all_whole(value) for key, value in payload.items()}


def is_envelope(payload: JSONObject) -> bool:
    """Return whether a chunk without choices holds nothing else than which answer it is of, whatever its usage is."""
    return all(key in _ENVELOPE or key == "usage" or value is None or value == [] for key, value in payload.items())


def message_in(choice: JSONObject, *, with_delta: bool = False) -> JSONObject | None:
    """Take the message, or the delta, out of a choice, whichever name it has; None if the choice has none.

    ``with_delta`` says that deltas have had words: a whole message beside or after them repeats these.
    """
    found = [_only_message(choice.pop(key, None)) for key in ("delta", *MESSAGES)]
    delta = next((each for each in found[:1] if isinstance(each, dict)), None)
    if delta is not None and (with_delta or has_words(delta)):
        return delta
    for each in found:
        if isinstance(each, str) and each:
            return {**(delta or {}), "content": each}
        if isinstance(each, dict) and each is not delta and not with_delta:
            return {**(delta or {}), **each}
    return delta


def _only_message(value: Any) -> Any:
    """Return the message in a list of messages (MiniMax); the texts of several are one content."""
    if not isinstance(value, list):
        return value
    return {"content": value} if len(value) > 1 else next(iter(value), None)


def is_whole_answer(payload: JSONObject) -> bool:
    """Return whether a payload is an answer, and not a piece of one."""
    if payload.get("object") == "chat.completion.chunk":
        return False
    if (found := wrapped_answer(payload)) is not None:
        beside = {key: value for key, value in payload.items() if key != found[0]}
        return is_whole_answer({**beside, **found[1]})
    choices = payload.get("choices")
    if not isinstance(choices, list):
        # A line of Ollama's has no usage, or says that it is not done.
        return "delta" not in payload and "done" not in payload and isinstance(payload.get("usage"), dict)
    return not any(isinstance(choice, dict) and "delta" in choice for choice in choices)


def has_words(delta: JSONObject) -> bool:
    """Return whether a delta holds more than a role."""
    return any(value for name, value in delta.items() if name != "role")


def text_of(holder: JSONObject) -> Any:
    """Return the text of a message or delta: what it says, or in an answer that is spoken the words of that."""
    content = holder.get("content")
    if content or "audio" not in holder:
        return content
    audio = holder["audio"]
    return audio.get("transcript") if isinstance(audio, dict) else content


def shape_texts(holder: JSONObject, *, with_details: bool = True) -> bool:
    """Bring content and reasoning of a message or delta into form, in place: one text each, under OpenAI's names.

    ``with_details`` says that reasoning which stands in parts only is read, too; the parts stay. Returns whether there
    is reasoning as a text of its own.
    """
    if not (content := holder.get("content")) and "text" in holder and isinstance(holder["text"], str):
        content = holder["content"] = holder.pop("text")
    if content is not None and not isinstance(content, str):
        _spread(holder, content)
    if not _OTHER_NAMES.isdisjoint(holder):
        _rename_reasoning(holder)
        if (call := holder.pop(_ONE_CALL, None)) and not holder.get("tool_calls"):
            holder["tool_calls"] = call
    if "reasoning_content" in holder and not isinstance(holder["reasoning_content"], str | None):
        holder["reasoning_content"] = _text_in(holder["reasoning_content"])
    if "refusal" in holder and not isinstance(holder["refusal"], str | None):
        holder["refusal"] = _refusal_in(holder["refusal"])
    if holder.get("reasoning_content"):
        return True
    if with_details and not _DETAILS.isdisjoint(holder):
        found = [_text_in(holder[name]) for name in sorted(_DETAILS) if name in holder]
        if text := next(filter(None, found), ""):
            holder["reasoning_content"] = text
    return False


def _refusal_in(given: Any) -> str | None:
    """Return a refusal in words; None where it is none, or only says that there is one."""
    if not given or not isinstance(given, (dict, list)):
        return None
    return _text_in(given) or json.encode(given).decode()


def _rename_reasoning(holder: JSONObject) -> None:
    """Give reasoning the one name that we send; what is null or empty gives way to what is not."""
    found = {name: _text_in(holder[name]) for name in _REASONING if holder.get(name) is not None}
    for name, text in found.items():
        if text or not isinstance(holder[name], dict):
            del holder[name]
    if found and not holder.get("reasoning_content"):
        holder["reasoning_content"] = next(filter(None, found.values()), "")


def _spread(holder: JSONObject, content: Any) -> None:
    """Turn a list of parts (Mistral's) into one text, its thinking into reasoning and its calls into calls.

    Parts that hold none of these stay, as they came.
    """
    if not isinstance(content, (list, dict)):
        holder["content"] = json.encode([content]).decode()[1:-1]
        return
    parts = content if isinstance(content, list) else [content]
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[JSONObject] = []
    others: list[Any] = []
    for part in parts:
        kind = str(part.get("type", "text")) if isinstance(part, dict) else "text"
        text = _text_in(part)
        if "thinking" in kind or "reasoning" in kind:
            thoughts.append(text)
        elif kind == "refusal" and isinstance(part, dict):
            holder["refusal"] = (holder.get("refusal") or "") + str(part.get("refusal") or text)
        elif text and (kind in ("text", "output_text") or _is_worded(part)):
            texts.append(text)
        elif isinstance(part, dict) and kind in _CALLS and not holder.get("tool_calls"):
            calls.append(part)
        elif part:
            others.append(part)
    holder["content"] = "".join(texts) if texts else None
    if calls:
        holder["tool_calls"] = calls
    if thoughts and not holder.get("reasoning_content"):
        holder["reasoning_content"] = "".join(thoughts)
    if others:
        holder["content_parts"] = others


def _is_worded(part: Any) -> bool:
    """Return whether a part of a kind that is new to us has a text, as those of known kinds have it."""
    return (
        not isinstance(part, dict) or isinstance(part.get("text"), (str, dict)) or isinstance(part.get("content"), list)
    )


def _text_in(value: Any, depth: int = 0) -> str:
    """Return the text of a part, or of a list of parts, however it is nested."""
    if isinstance(value, str):
        return value
    if depth > _MAX_PARTS_DEPTH:
        return ""
    if isinstance(value, list):
        return "".join(_text_in(each, depth + 1) for each in value)
    if isinstance(value, dict):
        return next(filter(None, (_text_in(value.get(key), depth + 1) for key in _PART_TEXTS)), "")
    return ""
