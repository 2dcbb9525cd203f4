"""What may be said of keys, teams and budgets: each field is checked, and becomes the value of a column. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from one_api.accounts.keys import ROLES, ChangeRefused, networks
from one_api.accounts.money import nano
from one_api.accounts.periods import zone_named
from one_api.dialects import json

#: What may be said of a key when it is made, and changed later.
KEY_FIELDS = (
    "role", "team", "owner", "models", "networks", "tags", "note", "expires_at", "rpm", "tpm", "concurrent"
)  # fmt: skip
TEAM_FIELDS = ("models", "note")
BUDGET_FIELDS = ("limit_usd", "zone", "alert_percent")
LISTS = ("models", "networks", "tags")
NUMBERS = ("rpm", "tpm", "concurrent", "expires_at")
#: The most that each limit may be; those of requests at a time have room for no more in the file of the limits.
_MAX_VALUES = {"rpm": 1_000_000_000, "tpm": 1_000_000_000, "concurrent": 1024}
#: What is kept of a text at most, in characters, and of a list: all keys are in the memory of every process.
_MAX_TEXT = 256
_MAX_LIST = 1000
#: The last moment that has a date, in UTC milliseconds.
_LAST_MS = 253_402_300_799_999
#: How long an old key may count beside a new one, in seconds.
_MAX_GRACE_S = 366 * 86400
#: Zones that each machine has another one of.
_OWN_ZONES = ("localtime", "posixrules", "Factory")


def values_of(fields: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """Return the values of columns for what was said of a key or a team; raises ChangeRefused."""
    _check_known(fields, known)
    values = {name: None if value is None else _value(name, value) for name, value in fields.items()}
    if values.get("role", "client") not in ROLES:
        raise ChangeRefused(f"give one of {', '.join(ROLES)}", "role")
    return values


def _value(name: str, value: Any) -> Any:
    """Return the value of one column; raises ChangeRefused."""
    if name in LISTS:
        if not (isinstance(value, list) and len(value) <= _MAX_LIST and all(each and _is_text(each) for each in value)):
            what = f"at most {_MAX_LIST} texts, each of at most {_MAX_TEXT} characters"
            raise ChangeRefused(f"give a list of {what}, or null", name)
        if name == "networks":
            _check_networks(value)
        return json.encode(value).decode()
    if name == "expires_at":
        if not _is_whole(value, 1, _LAST_MS):
            raise ChangeRefused("give UTC milliseconds, in the year 9999 at the latest, or null", name)
    elif name in _MAX_VALUES:
        if not _is_whole(value, 0, _MAX_VALUES[name]):
            raise ChangeRefused(f"give a whole number up to {_MAX_VALUES[name]}, 0 for no limit, or null", name)
    else:
        _check_text(name, value)
    return value


def _check_networks(texts: list[str]) -> None:
    try:
        networks(texts)
    except ChangeRefused as error:
        raise ChangeRefused(error.message, "networks") from None


def budget_values(fields: Mapping[str, Any], *, new: bool) -> dict[str, Any]:
    """Return the values of columns for what was said of a budget, which has a limit if it is new.

    Raises:
        ChangeRefused
    """
    _check_known(fields, BUDGET_FIELDS)
    values: dict[str, Any] = {}
    if new or "limit_usd" in fields:
        values["limit_nano"] = amount_in("limit_usd", fields.get("limit_usd"))
    if "zone" in fields:
        values["zone"] = _zone_in(fields["zone"])
    if "alert_percent" in fields:
        if not _is_whole(fields["alert_percent"], 0, 100):
            raise ChangeRefused("give a whole number up to 100; 0 is never", "alert_percent")
        values["alert_percent"] = fields["alert_percent"]
    return values


def _zone_in(value: Any) -> str:
    """Return the name of a time zone that is the same on every machine; raises ChangeRefused."""
    try:
        if not isinstance(value, str) or value in _OWN_ZONES or value.startswith(("posix/", "right/")):
            raise ValueError(value)
        zone_named(value)
    except ValueError:
        raise ChangeRefused("give the name of a time zone, such as Asia/Shanghai or UTC", "zone") from None
    return value


def amount_in(name: str, value: Any) -> int:
    """Return a text in dollars as nano-dollars; raises ChangeRefused."""
    if not isinstance(value, str) or re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value) is None:
        raise ChangeRefused('give US dollars as a text, such as "50" or "0.25"', name)
    return nano(value)


def check_grace(seconds: Any) -> None:
    """Raise ChangeRefused for what is no time that an old key may count beside a new one."""
    if not _is_whole(seconds, 0, _MAX_GRACE_S):
        raise ChangeRefused("give whole seconds, at most a year of them", "grace_s")


def check_note(note: Any) -> None:
    """Raise ChangeRefused for what is no note."""
    if note is not None:
        _check_text("note", note)


def _check_known(fields: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise ChangeRefused for a field that is not ``known``."""
    for name in fields:
        if name not in known:
            raise ChangeRefused(f"there is no {name[:64]!r}; known are {', '.join(known)}", name[:64])


def _check_text(name: str, value: Any) -> None:
    if not _is_text(value):
        raise ChangeRefused(f"give a text of at most {_MAX_TEXT} characters, or null", name)


def _is_text(value: Any) -> bool:
    """Return whether a value is a text that a column takes: PostgreSQL has no NUL."""
    return isinstance(value, str) and len(value) <= _MAX_TEXT and "\0" not in value


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
