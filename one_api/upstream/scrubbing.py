"""Texts of upstreams, made fit for clients and logs: without secrets, keys and addresses, on one line, and short."""

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from one_api.settings.kinds import Secret, Storage

#: The longest text of an upstream that clients and logs get, in characters.
MAX_TEXT = 500
#: What stands in place of what was taken out.
REMOVED = "[removed]"

#: What is looked at of a text, in characters: enough for ``MAX_TEXT`` after everything was taken out.
_MAX_READ = 8 * MAX_TEXT
#: A part of a secret that is as long as this is taken out, too, in characters.
_FRAGMENT = 10
#: A secret that is shorter than this is a word of ordinary texts, in characters.
_MIN_SECRET = 6
#: At the end of a text, the beginning of a secret that is as long as this is taken out; where we cut it ourselves, one
#: that is as long as the second, in characters.
_MIN_START, _MIN_CUT = 6, 3

#: The ends of a text that may be the start of a secret: of one that is whole, and of one that we cut.
_ENDINGS, _CUT_ENDINGS = (
    [slice(-length, None) for length in range(shortest, _FRAGMENT)] for shortest in (_MIN_START, _MIN_CUT)
)

_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
#: Characters that show nothing, or that a text may be broken at.
_INVISIBLE = re.compile(r"[\s\x00-\x1f\x7f-\xa0\u00ad\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufe00-\ufe0f\ufeff]+")

_KEY_LIKE = (
    r"\b(?:sk|pk|rk|key|xai|gsk|org|proj|hf|nvapi|pplx|csk|fw)[-_](?:[-_A-Za-z0-9*]|\.(?=[.\w])){6,}"
    r"|\bAIza[-_A-Za-z0-9*]{6,}|\bAKIA[A-Z0-9]{12,}|\beyJ[-_A-Za-z0-9]{6,}(?:\.[-_A-Za-z0-9]+)*"
    r"|\b(?!req_)(?=\w*[0-9])(?=\w*[A-Za-z])[A-Za-z0-9_]{32,}"
    r"|\b(?i:bearer|basic)\s+[-._~+/=A-Za-z0-9*]{6,}"
)
_KEYS = re.compile(_KEY_LIKE)
#: Those, and what an upstream has masked itself: to look for that takes long, so only where there are three asterisks.
_KEYS_OR_MASKED = re.compile(rf"{_KEY_LIKE}|[^\s*'\"`(]{{0,64}}\*{{3,}}[^\s*'\"`)]{{0,64}}")
#: Ends of host names. Without a list, ``tools.function.parameters`` would be one.
_ENDS = (
    "com|org|net|io|ai|dev|cn|app|cloud|co|edu|gov|de|uk|eu|us|jp|kr|fr|nl|ch|ru|in|sg|hk|tw|me|tech|xyz"
    "|local|localdomain|localhost|internal|intranet|lan|home|corp|svc|cluster|arpa|test|example|invalid"
)
_ADDRESS = re.compile(
    r"\b[a-z][a-z0-9+.-]{1,20}://[^\s\"'<>`]+"  # an address with its scheme
    r"|\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"  # a mail address
    r"|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b"  # IPv4
    r"|(?<![\w:.])\[?(?=[0-9a-f:]*::|(?:[0-9a-f]{1,4}:){7})(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?:%\w+)?(?:\]:\d{1,5}|\])?(?![\w:])"
    rf"|\b(?:[a-z0-9_][a-z0-9_-]{{0,62}}\.){{1,8}}(?:{_ENDS})\b\.?(?::\d{{1,5}})?(?:/[^\s\"'<>`]*)?"  # a host
    r"|\blocalhost\b(?::\d{1,5})?(?:/[^\s\"'<>`]*)?"
    r"|\b[a-z][a-z0-9]{0,62}(?:-[a-z0-9]{1,62}){1,8}:\d{2,5}\b"  # a host of a container network, with its port
    r"|\bhost='[^']*'",
    re.IGNORECASE,
)


class Scrubber:
    """Takes secrets and addresses out of the texts of upstreams.

    ``secrets`` are taken out by value: whole, in parts, in any case, with blanks between, and as percent-encoding,
    base64 or hexadecimal digits. ``addresses`` are base URLs whose hosts are taken out. What looks like a key or an
    address is taken out as well.
    """

    def __init__(self, secrets: Iterable[str] = (), addresses: Iterable[str] = ()) -> None:
        self.know(secrets, addresses)

    def know(self, secrets: Iterable[str], addresses: Iterable[str]) -> None:
        """Take out these from now on, and no others."""
        known = {secret for secret in secrets if len(secret) >= _MIN_SECRET}
        forms = {form for secret in known for form in _forms(secret)}
        self._short = {form for form in forms if len(form) < _FRAGMENT}
        self._fragments = {
            form[at : at + _FRAGMENT] for form in forms for at in range(max(0, len(form) - _FRAGMENT + 1))
        }
        self._starts = {secret.translate(_LOWER)[:length] for secret in known for length in range(_MIN_CUT, _FRAGMENT)}
        self._hosts = _hosts(addresses)

    def __repr__(self) -> str:
        return "Scrubber()"

    def clean(self, text: str) -> str:
        """Return a text on one line, without secrets and addresses, of ``MAX_TEXT`` characters at most."""
        is_cut = len(text) > _MAX_READ
        text = text[:_MAX_READ].encode("utf-8", "replace").decode("utf-8", "replace")
        text = self._without_secrets(text, is_cut)
        text = _without_keys(text)
        if self._hosts is not None:
            text = self._hosts.sub(REMOVED, text)
        text = _ADDRESS.sub(REMOVED, text)
        return _INVISIBLE.sub(" ", text).strip()[:MAX_TEXT].rstrip()

    def name(self, text: str | None) -> str | None:
        """Return a code, a type or a name of a parameter: what is clean of it, and None for what is too long."""
        if not text or len(text) > 128:
            return None
        return self._without_secrets(_INVISIBLE.sub(" ", text).strip(), is_cut=False) if self.is_clean(text) else None

    def is_clean(self, text: str) -> bool:
        """Return whether a short text holds no secret and nothing that looks like one."""
        if self._holds_any(_INVISIBLE.sub("", text).translate(_LOWER), is_cut=False):
            return False
        return not (_KEYS_OR_MASKED if "***" in text else _KEYS).search(text)

    def _without_secrets(self, text: str, is_cut: bool) -> str:
        """Return ``text`` without any part of a secret; what shows nothing does not hide one."""
        bare = _INVISIBLE.sub("", text).translate(_LOWER)
        if not self._holds_any(bare, is_cut):
            return text
        places = [at for at, character in enumerate(text) if not _INVISIBLE.match(character)]
        found = bytearray(len(bare))
        for at in range(len(bare) - _FRAGMENT + 1):
            if bare[at : at + _FRAGMENT] in self._fragments:
                found[at : at + _FRAGMENT] = b"\x01" * _FRAGMENT
        for short in self._short:
            for match in re.finditer(re.escape(short), bare):
                found[match.start() : match.end()] = b"\x01" * len(short)
        for length in range(min(_FRAGMENT - 1, len(bare)), (_MIN_CUT if is_cut else _MIN_START) - 1, -1):
            if bare[len(bare) - length :] in self._starts:
                found[len(bare) - length :] = b"\x01" * length
        return _without(text, places, found)

    def _holds_any(self, bare: str, is_cut: bool) -> bool:
        """Return whether there may be a part of a secret: most texts, such as the headers of each answer, have none."""
        parts = map(bare.__getitem__, map(slice, range(len(bare) - _FRAGMENT + 1), range(_FRAGMENT, len(bare) + 1)))
        ends = map(bare.__getitem__, _CUT_ENDINGS if is_cut else _ENDINGS)
        if not (self._fragments.isdisjoint(parts) and self._starts.isdisjoint(ends)):
            return True
        return any(short in bare for short in self._short)


def _without_keys(text: str) -> str:
    return (_KEYS_OR_MASKED if "***" in text else _KEYS).sub(REMOVED, text)


def _without(text: str, places: list[int], found: bytearray) -> str:
    """Return ``text`` with each run of characters that ``found`` marks replaced; ``places`` are theirs in the text."""
    pieces, end = [], 0
    for match in re.finditer(rb"\x01+", found):
        pieces += [text[end : places[match.start()]], REMOVED]
        end = places[match.end() - 1] + 1
    return "".join([*pieces, text[end:]])


def _forms(secret: str) -> list[str]:
    """Return a secret as it may be written, in small letters: as it is, percent-encoded, hexadecimal, in base64."""
    data = secret.encode()
    shifted = [base64.b64encode(b"\0" * shift + data).decode().rstrip("=")[4 if shift else 0 :] for shift in range(3)]
    in_base64 = [form[:-1] for form in shifted if len(form) > 2 * _FRAGMENT]
    others = [form for form in (quote(secret, safe=""), data.hex(), *in_base64) if len(form) >= _FRAGMENT]
    return [_INVISIBLE.sub("", form).translate(_LOWER) for form in (secret, *others)]


def _hosts(addresses: Iterable[str]) -> re.Pattern[str] | None:
    """Return what finds the hosts of base URLs: with their port, and alone where they are no ordinary word."""
    found: set[str] = set()
    for address in addresses:
        parts = urlsplit(address)
        if parts.hostname:
            found.add(parts.netloc.rpartition("@")[2])
            found |= {parts.hostname} if re.search(r"[.:-]", parts.hostname) else set()
    if not found:
        return None
    longest_first = sorted(found, key=len, reverse=True)
    either = "|".join(re.escape(host) for host in longest_first)
    return re.compile(rf"(?<![\w.-])(?:{either})(?![\w-])(?::\d{{1,5}})?", re.IGNORECASE)


# What the configuration holds


def secrets_in(value: Any) -> Iterator[str]:
    """Yield every secret in a part of the configuration: keys, and the passwords of addresses."""
    for found in _leaves(value):
        if isinstance(found, Secret):
            yield found.reveal()
        elif isinstance(found, Storage) and "@" in found:
            login = found.partition("//")[2].rpartition("@")[0]
            yield from {password := login.partition(":")[2] or login, unquote(password)}
            # As it is sent: the base64 of a short password cannot be recognised by the password alone.
            yield base64.b64encode(unquote(login).encode()).decode().rstrip("=")


def addresses_in(value: Any) -> Iterator[str]:
    """Yield the address of every server that a part of the configuration names."""
    return (str(found) for found in _leaves(value) if isinstance(found, str) and "://" in found)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield every value in structs, lists and mappings."""
    if names := getattr(value, "__struct_fields__", ()):
        children = [getattr(value, name) for name in names]
    elif isinstance(value, Mapping):
        children = list(value.values())
    elif isinstance(value, (tuple, list)):
        children = list(value)
    else:
        yield value
        return
    for child in children:
        yield from _leaves(child)
