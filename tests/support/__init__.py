"""The test bed: a scripted upstream, a raw client and the real gateway, all over real sockets; no mocks."""

from .actions import Action, Chop, Close, Flood, Hang, Receive, Reset, Script, Send, Wait, WaitFor
from .gateway import Gateway, free_port
from .http1 import Headers, MalformedError, chunk
from .raw import Head, RawClient, Response, build_request, post_chat
from .replies import (
    DONE,
    chunked,
    completion,
    error,
    error_body,
    event,
    joined,
    json_reply,
    reply,
    sse,
    text_chunks,
    tokens,
    tool_chunks,
)
from .seen import Seen
from .upstream import ScriptedUpstream, blackhole

__all__ = [
    "DONE",
    "Action",
    "Chop",
    "Close",
    "Flood",
    "Gateway",
    "Hang",
    "Head",
    "Headers",
    "MalformedError",
    "RawClient",
    "Receive",
    "Reset",
    "Response",
    "Script",
    "ScriptedUpstream",
    "Seen",
    "Send",
    "Wait",
    "WaitFor",
    "blackhole",
    "build_request",
    "chunk",
    "chunked",
    "completion",
    "error",
    "error_body",
    "event",
    "free_port",
    "joined",
    "json_reply",
    "post_chat",
    "reply",
    "sse",
    "text_chunks",
    "tokens",
    "tool_chunks",
]
