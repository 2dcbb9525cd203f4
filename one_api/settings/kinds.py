"""Kinds of values that settings have: numbers with bounds, addresses, and what hides itself."""

import hmac
import re
from typing import Annotated, Any

from msgspec import Meta

from one_api.settings.addresses import (
    CLAUDE,
    OPENAI,
    check_address,
    check_credential,
    check_host,
    mend_credential,
    mend_host,
)
from one_api.settings.validation import Substituted, checked, mended

Seconds = Annotated[float, Meta(gt=0, le=86400)]
StorageSeconds = Annotated[float, Meta(gt=0, le=5)]
Count = Annotated[int, Meta(ge=1)]
Weight = Annotated[float, Meta(gt=0)]
#: US dollars per million tokens.
Price = Annotated[float, Meta(ge=0, le=1_000_000)]
#: What can stand in a header's list.
Token = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]+\Z")]
#: The address of an upstream, up to what its dialect adds.
OpenAIAddress = Annotated[str, mended(OPENAI.mend), checked(OPENAI.check)]
ClaudeAddress = Annotated[str, mended(CLAUDE.mend), checked(CLAUDE.check)]
#: Where the gateway listens: a host's name, or an IP address with or without brackets.
Host = Annotated[str, mended(mend_host), checked(check_host)]
#: Where a part of it listens: HOST:PORT.
ListenAddress = Annotated[str | None, checked(check_address)]

_SECRET_NAME = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)


class Secret:
    """A value that never shows itself: ``repr`` and ``str`` are masked, ``reveal()`` is explicit."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value, for the one place that sends or compares it."""
        return self._value

    def __eq__(self, other: object) -> bool:
        """Compare in constant time."""
        return isinstance(other, Secret) and hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__


def _check_credential(secret: Secret) -> tuple[str, str] | None:
    return check_credential(secret.reveal())


#: What is sent to an upstream in a header.
Credential = Annotated[Secret | None, mended(mend_credential), checked(_check_credential)]


#: What an address begins with before its host, and one of its parameters whose name says that it is secret.
_USER = re.compile(r"(?<=://)[^\s?#]*@")
_SECRET_PARAMETER = re.compile(r"(?i)([?&][^=&\s]*(?:key|token|secret|passw|pwd|credential)[^=&\s]*=)[^&#\s]*")


def without_secrets(address: str) -> str:
    """Return an address with stars for its name and password, wherever they stand."""
    return _SECRET_PARAMETER.sub(r"\1***", _USER.sub("***@", address))


class Storage(str):
    """Where something is kept: a word, or an address whose password never shows itself in ``repr``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(without_secrets(str(self)))


class Proxy(Storage):
    """The address of a proxy, or ``environment``; a password in it never shows itself in ``repr``."""

    __slots__ = ()


class OwnSettings(dict[str, Any]):
    """Settings whose meaning is not ours to know, as plain values: those that look secret hide themselves.

    That is each text that was filled in from a variable or a file, and each under a name such as ``api_key``.
    """

    __slots__ = ()

    @classmethod
    def read(cls, raw: dict[str, Any]) -> "OwnSettings":
        """Make one of what a YAML file holds."""
        return cls({str(name): _hidden(value, str(name)) for name, value in raw.items()})

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(sorted(self)))


def _hidden(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {str(key): _hidden(child, str(key)) for key, child in value.items()}
    if isinstance(value, list):
        return [_hidden(child, name) for child in value]
    is_secret = isinstance(value, str) and (isinstance(value, Substituted) or _SECRET_NAME.search(name))
    return Secret(str(value)) if is_secret else value
