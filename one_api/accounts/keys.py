"""What a key is: its text, its digest, and what its holder may do. Pure."""

import base64
import hashlib
import ipaddress
import re
import secrets
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from one_api.contract import Caller
from one_api.settings.origins import is_within

#: What our keys begin with; scanners for secrets find them by ``sk-oa-[\\w-]{47}``.
_PREFIX = "sk-oa-"
_RANDOM_BYTES = 32
_SUM_LENGTH = 4
#: A key that was made elsewhere must be at least so long, in characters: it must not be guessed.
MIN_FOREIGN_LENGTH = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")

Role = Literal["client", "viewer", "admin"]
ROLES: tuple[Role, ...] = ("client", "viewer", "admin")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ChangeRefused(ValueError):
    """A key, team or budget cannot be so; the message says why, and ``field`` which of its fields it is about."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message if field is None else f"{field}: {message}")
        self.message = message
        self.field = field


def make_key() -> str:
    """Return a new key: 256 random bits, and a checksum that shows typing errors."""
    body = base64.urlsafe_b64encode(secrets.token_bytes(_RANDOM_BYTES)).decode().rstrip("=")
    return f"{_PREFIX}{body}{_sum(body)}"


def _sum(body: str) -> str:
    crc = zlib.crc32(body.encode()) & 0xFFFFFF
    return base64.urlsafe_b64encode(crc.to_bytes(3, "big")).decode()


def is_ours(key: str) -> bool:
    """Return whether a key has the form that ``make_key`` gives, with the right sum."""
    body = key[len(_PREFIX) : -_SUM_LENGTH]
    return key.startswith(_PREFIX) and key[-_SUM_LENGTH:] == _sum(body)


def digest_of(key: str) -> bytes:
    """Return what is kept of a key, its SHA-256: without a salt, since nobody guesses 256 random bits."""
    return hashlib.sha256(key.encode()).digest()


def shown(key: str) -> str:
    """Return what people may see of a key, to recognise it."""
    return f"{key[:10]}...{key[-4:]}"


def check_name(name: str) -> str:
    """Return a name that a key or team may have; raises ChangeRefused."""
    if not _NAME.fullmatch(name):
        raise ChangeRefused(f"{name[:64]!r} is no usable name: use letters, digits and ._@-, at most 128 of them")
    return name


def check_foreign(key: str) -> str:
    """Return a key that was made elsewhere, if it is one that can be sent and not be guessed; raises ChangeRefused."""
    if len(key) < MIN_FOREIGN_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
        raise ChangeRefused(
            f"a key that is brought along has at least {MIN_FOREIGN_LENGTH} characters, none of them a space"
        )
    return key


def network(text: str) -> Network:
    """Return a network, or a single address as one; raises ChangeRefused."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ChangeRefused(f"{text!r} is no address and no network: write it like 10.0.0.0/8") from None


@dataclass(frozen=True, slots=True)
class VirtualKey:
    """A key of the database, as requests meet it."""

    caller: Caller
    #: For people who look for it; of several texts the newest one's.
    prefix: str
    role: Role
    networks: tuple[Network, ...] | None
    #: UTC milliseconds; for the key before a rotation the end of its grace.
    expires_at: int | None
    is_disabled: bool

    def is_expired(self, now_ms: float) -> bool:
        """Return whether its time is over."""
        return self.expires_at is not None and now_ms >= self.expires_at

    def is_allowed_from(self, address: str | None) -> bool:
        """Return whether it may be used from an address; what is no IP address is in no network."""
        return self.networks is None or is_within(address, self.networks)


def networks(texts: Iterable[str] | None) -> tuple[Network, ...] | None:
    """Return networks by their texts; None stays None, and is all."""
    return None if texts is None else tuple(network(text) for text in texts)
