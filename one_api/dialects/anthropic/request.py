"""A chat request in OpenAI's format becomes a request to Anthropic's Messages API.

Everything here is a function of its arguments: the same conversation gives the same bytes, and a longer one extends
the shorter, which the upstream's prompt cache and the signatures of its thinking rest on.
"""

from dataclasses import dataclass, replace
from types import MappingProxyType

from one_api.dialects.anthropic.content import CacheMarks, Content
from one_api.dialects.anthropic.format import JSON_OBJECT, Format, free_name, read_format
from one_api.dialects.anthropic.history import read_history
from one_api.dialects.anthropic.messages import Conversation, Replay, Translator, limit_marks
from one_api.dialects.anthropic.models import ModelTraits
from one_api.dialects.anthropic.names import tool_names
from one_api.dialects.anthropic.options import Notes, RequestOptions
from one_api.dialects.anthropic.parameters import check_unsupported, max_tokens, service_tier, stops, user_id
from one_api.dialects.anthropic.reasoning import reasoning, sampling
from one_api.dialects.anthropic.response import ResponseOptions
from one_api.dialects.anthropic.search import search_tool
from one_api.dialects.anthropic.tools import Chosen, Tools, choose, declarations, from_history, read_tools
from one_api.dialects.json import JSONObject

__all__ = ["RequestOptions", "Translated", "translate"]


@dataclass(frozen=True, slots=True)
class Translated:
    """A request for the upstream, and what its answer needs to be read back."""

    #: What is sent; always with ``stream: true``.
    body: JSONObject
    #: Names of the parameters that were dropped or altered, for ``x-gateway-warnings``.
    warnings: tuple[str, ...]
    #: What of it changes the form of the answer.
    response: ResponseOptions


def _never(message: JSONObject) -> list[JSONObject] | None:
    """Remember nothing of an assistant message."""
    return None


def translate(body: JSONObject, traits: ModelTraits, options: RequestOptions, replay: Replay = _never) -> Translated:
    """Translate ``body``, whose ``model`` is the upstream's name; ``body`` itself stays as it is.

    ``replay`` returns the content blocks that the upstream once sent for an assistant message of the history, or None.

    Raises:
        InvalidRequest: naming the first parameter that is wrong or has no counterpart; with ``options.strict``
            also for what would be dropped or altered.
    """
    notes = Notes(options.strict)
    context = _Context(traits, options, notes)
    check_unsupported(body, notes)
    limit = max_tokens(body, traits, options, notes)
    marks = CacheMarks(options.long_cache)
    tools = read_tools(body, marks, notes)
    history = read_history(body.get("messages"), notes)
    used = [call.name for entry in history for call in entry.calls]
    names = tool_names([*(tool.name for tool in tools.tools), *used])
    declared = declarations(tools, names, traits, notes) or from_history(tool_names(used))
    plan = _plan_output(body, tools, choose(tools, names, traits, notes), context)
    conversation = Translator(Content(traits, marks, options.file_ids), options, notes, names, replay).conversation(
        history, json_format=plan.format.by_schema or plan.emulates
    )
    json_tool = _form(plan.format, conversation, declared)
    choice = plan.choice(json_tool, declared)
    begun = _is_begun(conversation)
    limit_marks(declared, conversation.system, conversation.messages, notes)
    upstream = {
        "model": body["model"],
        "max_tokens": limit,
        **_thinking(body, limit, plan.begun() if begun else plan, context),
        **_envelope(body, options, notes),
        "tools": declared + search_tool(body, declared, choice, options, notes),
        "tool_choice": choice,
        "system": conversation.system,
        "messages": conversation.messages,
        "stream": True,
    }
    return Translated(
        body={key: value for key, value in upstream.items() if value not in (None, [])},
        warnings=notes.names,
        response=ResponseOptions(
            names=MappingProxyType({ours: name for name, ours in names.items() if ours != name}),
            custom_tools=frozenset(tool.name for tool in tools.tools if tool.is_custom),
            stops=stops(body)[1],
            json_tool=json_tool,
            forced_tool=plan.chosen.emulated,
            unfence=plan.format.instruction is not None,
            # Of an answer that the client has begun itself, what comes is only the rest.
            json_object=plan.format.instruction == JSON_OBJECT and not begun,
            legacy_functions=tools.legacy,
        ),
    )


@dataclass(frozen=True, slots=True)
class _Context:
    """What a translation is held to, and where it notes what it could not keep."""

    traits: ModelTraits
    options: RequestOptions
    notes: Notes


@dataclass(frozen=True, slots=True)
class _OutputPlan:
    """What the answer shall be: a call of some tool, or text of some form."""

    chosen: Chosen
    format: Format
    #: May the model call one of the client's own tools?
    may_call: bool
    #: Is the answer forced or begun, so that there is no room for a budget of thinking?
    bound: bool

    @property
    def emulates(self) -> bool:
        """Return whether the text of the answer is the arguments of a tool."""
        return self.chosen.emulated is not None

    def begun(self) -> "_OutputPlan":
        """Return the same for an answer whose begin the client gives."""
        return replace(self, bound=True)

    def choice(self, json_tool: str | None, declared: list[JSONObject]) -> JSONObject | None:
        """Return ``tool_choice``; one tool at most is called when one of them is the answer."""
        if json_tool is not None:
            one = {"disable_parallel_tool_use": True}
            return {"type": "any", **one} if self.may_call else {"type": "tool", "name": json_tool, **one}
        if self.chosen.value is None and declared and not self.may_call:
            return {"type": "none"}
        return self.chosen.value


def _plan_output(body: JSONObject, tools: Tools, chosen: Chosen, context: _Context) -> _OutputPlan:
    traits = context.traits
    forced = (chosen.value or {}).get("type") in ("any", "tool")
    calls_tool = forced or chosen.emulated is not None
    form = read_format(body, traits, context.notes, may_force=traits.forced_tool, calls_tool=calls_tool)
    may_call = bool(tools.tools) and tools.choice.mode != "none"
    return _OutputPlan(chosen, form, may_call, forced or form.tool is not None)


def _form(form: Format, conversation: Conversation, declared: list[JSONObject]) -> str | None:
    """Put instruction or tool behind what the client gives, and return the tool's name."""
    if form.instruction is not None:
        conversation.system.append({"type": "text", "text": form.instruction})
    if form.tool is None:
        return None
    # Names that only the history has do not count: a longer one must not change the tools.
    name = free_name({tool["name"] for tool in declared})
    declared.append({"name": name, **form.tool})
    return name


def _thinking(body: JSONObject, limit: int, plan: _OutputPlan, context: _Context) -> JSONObject:
    """Return ``thinking``, the sampling that goes with it, and ``output_config``; ``limit`` in tokens."""
    traits, options, notes = context.traits, context.options, context.notes
    thinking = reasoning(body, traits, limit, notes, show=options.show_reasoning)
    if plan.bound:
        thinking = thinking.without_budget(notes)
    schema = plan.chosen.format if plan.emulates else plan.format.schema
    config: JSONObject = {} if thinking.effort is None else {"effort": thinking.effort}
    if schema is not None:
        config["format"] = {"type": "json_schema", "schema": schema}
    sampled = sampling(body, traits, options.version, notes, thinking=thinking.is_on)
    return {**sampled, "thinking": thinking.thinking, "output_config": config or None}


def _envelope(body: JSONObject, options: RequestOptions, notes: Notes) -> JSONObject:
    """Return what is neither model nor conversation."""
    hashed = user_id(body, options.user_secret)
    return {
        "stop_sequences": stops(body)[0],
        "metadata": None if hashed is None else {"user_id": hashed},
        "service_tier": service_tier(body, notes),
    }


def _is_begun(conversation: Conversation) -> bool:
    """Return whether the model is to go on with an assistant message."""
    return bool(conversation.messages[-1]["role"] == "assistant")
