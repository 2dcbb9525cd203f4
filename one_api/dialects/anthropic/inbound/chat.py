"""A Messages request becomes a chat request, for upstreams that speak no Messages."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from one_api.dialects.anthropic.inbound.carrier import Carrier
from one_api.dialects.anthropic.inbound.history import OpenCarrier, read_history
from one_api.dialects.anthropic.inbound.request import MessagesRequest, wrong
from one_api.dialects.anthropic.inbound.tools import read_tools, shortened_names
from one_api.dialects.anthropic.options import Notes
from one_api.dialects.json import JSONObject
from one_api.dialects.native import NativeRequest
from one_api.dialects.openai.chat_request import ChatRequest
from one_api.dialects.parameter_names import IN_MESSAGES, find_foreign
from one_api.errors import InvalidRequest

#: More stop strings than this OpenAI's format does not take.
MAX_STOPS = 4
#: ``budget_tokens`` below which an effort is named, in tokens.
_EFFORTS = ((8_192, "low"), (16_384, "medium"))
#: Efforts that only Anthropic's models know.
_HIGHEST = {"xhigh": "high", "max": "high"}
#: Words of chat that have no counterpart: they change the answer a little.
_DROPPED = ("frequency_penalty", "presence_penalty", "logit_bias", "seed", "prediction", "verbosity")
#: What becomes of the thinking in an answer.
Thinking = Literal["shown", "hidden", "none"]


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What a request says of the form of its answer."""

    #: The model's name, as it was asked for.
    model: str
    #: Strings at which the answer ends.
    stops: tuple[str, ...] = ()
    #: ``hidden``: the client gets thinking blocks without words; ``none``: no such blocks.
    thinking: Thinking = "none"
    #: Tools whose names are too long for others than Anthropic, by what these call them.
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def cuts(self) -> bool:
        """Return whether there are more stop strings than an upstream takes, so that the gateway looks for them."""
        return len(self.stops) > MAX_STOPS


@dataclass(frozen=True, slots=True)
class Translated:
    """A chat request, and what its answer needs to become a message."""

    body: JSONObject
    form: AnswerForm
    #: Names of what was dropped or altered.
    warnings: tuple[str, ...]
    #: How much the model shall think: only for models that know the word.
    effort: str | None


def as_chat_request(request: MessagesRequest, data: bytes, headers: Mapping[str, str], carrier: Carrier) -> ChatRequest:
    """Return ``request`` for upstreams of any dialect; ``data`` and ``headers`` are what the client sent.

    What only an upstream that speaks Messages can serve is refused where another is asked.
    """
    try:
        translated = to_chat(request, carrier.secret, carrier.open)
    except InvalidRequest as error:
        # The body is never sent: it stands for the request where such are compared.
        native, body = NativeRequest("messages", data, request.body, headers, refusal=error), request.body
    else:
        warnings, effort, body = translated.warnings, translated.effort, translated.body
        native = NativeRequest("messages", data, request.body, headers, warnings=warnings, effort=effort)
    return ChatRequest(request.model, request.stream, request.stream, body, native)


def form_of(request: MessagesRequest) -> AnswerForm:
    """Return the form of the answer that ``request`` asks for."""
    stops = request.body.get("stop_sequences")
    found = tuple(stop for stop in stops if isinstance(stop, str) and stop) if isinstance(stops, list) else ()
    return AnswerForm(request.model, found, _thinking(request.body.get("thinking")), shortened_names(request.body))


def to_chat(request: MessagesRequest, user_secret: bytes, open_carrier: OpenCarrier) -> Translated:
    """Translate ``request``; names of end users are hashed under ``user_secret``.

    Raises:
        InvalidRequest: for what only a server of Anthropic's dialect can do; the message begins with its place.
    """
    body, notes, form = request.body, Notes(strict=False), form_of(request)
    _refuse_foreign(body)
    _check_stops(body.get("stop_sequences"))
    history = read_history(body, notes, open_carrier)
    chat = {
        "model": request.model,
        "messages": history.messages,
        "max_completion_tokens": _limit(body.get("max_tokens"), notes),
        **read_tools(body, history.referenced),
        "stop": list(form.stops[:MAX_STOPS]) or None,
        "temperature": body.get("temperature"),
        "top_p": body.get("top_p"),
        "response_format": _response_format(body),
        "user": _user(body.get("metadata"), user_secret),
    }
    if body.get("top_k") is not None:
        notes.warn("top_k", "`top_k` is not part of OpenAI's format.")
    for name in _DROPPED:
        if body.get(name):
            notes.warn(name, f"Anthropic's format has no `{name}`.")
    if request.stream:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    effort = _effort(body, history.effort)
    return Translated({key: value for key, value in chat.items() if value is not None}, form, notes.names, effort)


def _refuse_foreign(body: JSONObject) -> None:
    """Refuse what would be lost without a trace, and what clients are known to repeat without."""
    if body.get("thread") is not None:
        raise InvalidRequest(
            "thread: This model keeps no threads: send the whole history.",
            param="thread",
            code="thread_unsupported_request",
        )
    for name in ("safeguards", "mcp_servers", "container"):
        if body.get(name):
            raise wrong(name, "Only Anthropic's own models take this: leave it out, or ask one of them.")
    if found := find_foreign(body, IN_MESSAGES):
        raise wrong(*found)


def _limit(limit: Any, notes: Notes) -> int | None:
    if limit == 0:  # Anthropic's word for a request that only fills its cache
        notes.warn("max_tokens", "This model answers with one token at least.")
        return 1
    return limit if isinstance(limit, int) else None


def _check_stops(stops: Any) -> None:
    """Raise InvalidRequest for stop strings that would not be looked for."""
    if stops is not None and not (isinstance(stops, list) and all(isinstance(stop, str) for stop in stops)):
        raise wrong("stop_sequences", "Input should be an array of strings.")


def _response_format(body: JSONObject) -> JSONObject | None:
    """Return the format of the answer, under its new or its old name."""
    config = body.get("output_config")
    if config is not None and not isinstance(config, dict):
        raise wrong("output_config", "Input should be an object.")
    place, form = "output_config.format", (config or {}).get("format")
    if form is None:
        place, form = "output_format", body.get("output_format")
    if form is None:
        return None
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        raise wrong(f"{place}.type", "Input should be json_schema.")
    if not isinstance(form.get("schema"), dict):
        raise wrong(f"{place}.schema", "Input should be an object: the schema.")
    return {"type": "json_schema", "json_schema": {"name": "output", "schema": form["schema"], "strict": True}}


def _effort(body: JSONObject, latest: Any) -> str | None:
    """Return the word for how much the model shall think: the latest effort, else what the budget amounts to."""
    config, thinking = body.get("output_config"), body.get("thinking")
    effort = latest or (config.get("effort") if isinstance(config, dict) else None)
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if kind == "disabled":
        return "none"
    if isinstance(effort, str):
        return _HIGHEST.get(effort, effort)
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    if kind != "enabled" or not isinstance(budget, int):
        return None
    return next((word for below, word in _EFFORTS if budget < below), "high")


def _thinking(thinking: Any) -> Thinking:
    """Return what becomes of the thinking; clients that ask for none need not know such blocks."""
    kind, display = (thinking.get("type"), thinking.get("display")) if isinstance(thinking, dict) else (None, None)
    if kind not in ("adaptive", "enabled"):
        return "none"
    return "shown" if display == "summarized" or (display is None and kind == "enabled") else "hidden"


def _user(metadata: Any, secret: bytes) -> str | None:
    """Return the end user's id as a hash: Claude Code's holds its account and device."""
    user_id = metadata.get("user_id") if isinstance(metadata, dict) else None
    if not isinstance(user_id, str) or not user_id:
        return None
    return hmac.new(secret, user_id.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
