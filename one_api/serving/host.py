"""What a ``Host`` header holds: by which name a client has reached the gateway."""

import re

#: A name, or an IPv6 address in brackets; and a port. ``_`` and ``~`` are not in names, and still used.
_HOST = re.compile(r"(?:([A-Za-z0-9._~%-]+)|\[([0-9A-Fa-f:.]+(?:%[A-Za-z0-9._~-]+)?)\])(?::[0-9]{0,5})?")
_MAX_LENGTH = 255


def name_in(host: str) -> str | None:
    """Return the name or address in a ``Host`` header, in lower case and without brackets; None if it is none."""
    found = _HOST.fullmatch(host) if len(host) <= _MAX_LENGTH else None
    return None if found is None else (found[1] or found[2]).lower()
