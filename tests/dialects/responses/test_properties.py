"""Whatever a request holds: it is translated, or refused in OpenAI's words."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from one_api.dialects.openai.chat_request import ChatRequest
from one_api.dialects.tokens import estimate_tokens
from one_api.errors import InvalidRequest
from tests.support.examples import examples

from .bed import SEALER, translated

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from([
    "message", "function_call", "custom_tool_call", "function_call_output", "custom_tool_call_output", "reasoning",
    "additional_tools", "tool_search_call", "tool_search_output", "item_reference", "configuration_update",
    "web_search_call", "code_interpreter_call", "compaction", "input_text", "output_text", "input_image", "input_file",
    "refusal", "function", "custom", "namespace", "tool_search", "web_search", "mcp", "allowed_tools", "json_schema",
])  # fmt: skip
WORDS = st.sampled_from(["a", "b", "user", "assistant", "system", "auto", "required", "client", "grammar"])
KEYS = st.sampled_from(
    [
        "type",
        "role",
        "content",
        "text",
        "call_id",
        "name",
        "namespace",
        "arguments",
        "input",
        "output",
        "tools",
        "format",
        "image_url",
        "file_data",
        "file_id",
        "id",
        "encrypted_content",
        "execution",
        "defer_loading",
        "parameters",
        "summary",
        "outputs",
        "refusal",
        "effort",
        "detail",
        "mode",
        "schema",
    ]
)
VALUES = ANY | TYPES | WORDS
PART = st.dictionaries(KEYS, VALUES, max_size=5) | st.fixed_dictionaries({"type": TYPES}, optional={"text": VALUES})
DEEPER = VALUES | st.lists(PART, max_size=3)
ITEM = st.fixed_dictionaries(
    {"type": TYPES | VALUES},
    optional=dict.fromkeys(
        ["role", "content", "call_id", "name", "arguments", "input", "output", "tools", "id"], DEEPER
    ),
)
PARAMETERS = [
    "instructions",
    "tool_choice",
    "text",
    "reasoning",
    "include",
    "metadata",
    "stream",
    "store",
    "truncation",
    "previous_response_id",
    "max_output_tokens",
    "parallel_tool_calls",
    "top_logprobs",
]
BODIES = st.fixed_dictionaries(
    {"model": st.just("m") | ANY, "input": st.lists(ITEM | VALUES, max_size=6) | VALUES},
    optional={"tools": st.lists(PART | ITEM, max_size=3) | VALUES, **dict.fromkeys(PARAMETERS, DEEPER | PART)},
)


@settings(max_examples=examples(1000))
@given(BODIES)
def test_a_request_becomes_one_that_chat_takes_or_is_refused(body: Any) -> None:
    before = json.dumps(body)
    try:
        found = translated(body, unseal=SEALER.open)
    except InvalidRequest as error:
        assert error.status == 400
        assert error.message
    else:
        chat = found.chat.body
        assert isinstance(json.dumps(chat), str)
        ChatRequest.read(chat)
        assert estimate_tokens(chat) >= 1
    assert json.dumps(body) == before
