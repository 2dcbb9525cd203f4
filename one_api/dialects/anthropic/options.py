"""What the operator has decided about requests to Claude models, and the notes on what is dropped or altered.

What becomes of each parameter is a table in docs/claude.md; a test holds that it is true.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from one_api.errors import InvalidRequest

#: More names than this do not go into one header.
_MAX_WARNINGS = 40
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What an operator has decided about one upstream."""

    #: A warning becomes a 400 that names the parameter.
    strict: bool = False
    #: The value of ``anthropic-version``; from 2026-10-21 on the API refuses all sampling parameters.
    version: str = "2023-06-01"
    #: Sent as ``max_tokens`` when neither the client nor the model's own maximum says one; in tokens.
    default_max_tokens: int | None = None
    #: The key under which the names of end users are hashed.
    user_secret: bytes = b""
    #: Ask for the thinking in words wherever thinking is sent.
    show_reasoning: bool = True
    #: May the client ask for the cache of one hour, which costs more to write?
    long_cache: bool = False
    #: The type of the upstream's tool that ``web_search_options`` becomes; None: refused.
    web_search: str | None = None
    #: The clients' ids of files -> the upstream's.
    file_ids: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"RequestOptions(strict={self.strict}, version={self.version!r})"


class Notes:
    """Collects the names of what is dropped or altered; with ``strict`` the first of them is an error instead."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self._names: dict[str, None] = {}

    def warn(self, name: str, message: str, *, param: str | None = None, code: str = "unsupported_value") -> None:
        """Note that ``name`` does not reach the model as the client sent it.

        Raises:
            InvalidRequest: with ``strict``, naming ``param`` (``name`` when it is not given) and ``code``.
        """
        if self.strict:
            raise InvalidRequest(message, param=param or name, code=code)
        if len(self._names) < _MAX_WARNINGS:
            # The name can be the client's own text, and goes into a header.
            self._names[name if _PLAIN_NAME.fullmatch(name) else "unknown_parameter"] = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names so far, in order, each once."""
        return tuple(self._names)
