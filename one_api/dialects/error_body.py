"""Error bodies, in all the shapes that servers send them in, as one report.

Seen at: OpenAI and servers that copy it (``error`` as an object, as text, inside another ``error``), Anthropic
(``type: error``), Google (a list; ``status`` in capitals; ``details`` with a reason), FastAPI and Mistral (``detail``
as a list with places), Cloudflare (``errors``), OpenRouter (the provider's own words in ``metadata.raw``), Azure
(``innererror``), Apigee (``fault``), AWS (``__type``), MiniMax (``base_resp``), Baidu (``error_code``, ``error_msg``),
DashScope and Zhipu (``code`` and ``message`` or ``msg`` at the top), RFC 9457 (``title``, ``detail``);
JSON as text inside a string, plain text, and pages of proxies in HTML.
"""

import html
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from one_api.dialects import durations, json
from one_api.dialects.json import JSONObject

#: How deep one report may lie in another.
_MAX_DEPTH = 6
#: Of a list of errors, so many are read.
_MAX_ERRORS = 5
#: What is read of a body that is no JSON, in characters: more than is ever shown.
_MAX_TEXT = 16 * 1024
#: The longest words, in characters: longer than what is ever shown, so that the cut is seen.
_MAX_WORDS = 4096

#: Where the words are, the best first; of these, those that stand in errors alone when no answer is beside them.
CLEAR_WORDS = (
    "message", "Message", "msg", "error_msg", "error_message", "errorMessage", "errmsg", "err_msg", "status_msg",
    "detail", "error_description", "details", "faultstring",
)  # fmt: skip
_WORDS = (*CLEAR_WORDS, "title", "reason", "error", "Error")
#: What words are called where a report has its own shape, in small letters.
_ANY_WORDS = frozenset(
    (
        "message",
        "messages",
        "msg",
        "detail",
        "details",
        "description",
        "reason",
        "err",
        "error",
        "text",
        "title",
        "cause",
    )
)
#: Where reports lie in reports.
_INNER = ("error", "Error", "errors", "fault", "base_resp", "response")
#: Fields that are called like an error, and are no names of one. Azure: innererror.
_NO_NAMES = frozenset({*_INNER, "innererror"})
#: Where a report says when to come back, in seconds or as a duration. Google: retryDelay; OpenRouter:
#: retry_after_seconds.
_WAITS = ("retryDelay", "retry_after", "retry_after_seconds", "retryAfter")
#: "Please try again in 9m38.016s", "try again in 850ms" (Groq, OpenAI).
_TRY_AGAIN = re.compile(
    r"(?:(?:try again|retry) (?:in|after)|please wait(?: for)?) "
    r"(?:(\d+) ?h(?:(?:ou)?rs?)?(?![a-z]),? ?)?(?:(\d+) ?m(?:in(?:ute)?s?)?(?![a-z]),? ?)?"
    r"(?:(\d+(?:\.\d+)?) ?(ms|s(?:ec(?:ond)?s?)?\b))?",
    re.IGNORECASE,
)


@dataclass(slots=True)
class ErrorReport:
    """What an error body says; nothing of it is cleaned yet."""

    message: str = ""
    type: str | None = None
    param: str | None = None
    #: As the server calls it; ``minimax:``, ``baidu:`` or ``cloudflare:`` stands before a number that is theirs alone.
    code: str | None = None
    #: An HTTP status that the body itself names.
    status: int | None = None
    #: When the server says to come back, in seconds.
    retry_after_s: float | None = None
    #: Every code, type and reason anywhere in it, in small letters.
    names: frozenset[str] = frozenset()
    #: Is it in Anthropic's envelope?
    is_claude: bool = False


def read(body: bytes) -> ErrorReport:
    """Return what the body of an error answer says."""
    with suppress(json.InvalidJSON):
        return read_value(json.decode(body))
    return read_value(body.decode("utf-8", "replace")[:_MAX_TEXT])


def read_value(value: Any) -> ErrorReport:
    """Return what a decoded body, or an event of a stream, says."""
    report = ErrorReport()
    _Reader(report).read(value, 0)
    report.message = report.message or next(_words_anywhere(value), "")[:_MAX_WORDS]
    if report.retry_after_s is None and (match := _TRY_AGAIN.search(report.message)):
        report.retry_after_s = durations.seconds_in(match)
    return report


def named_reports(payload: JSONObject) -> Iterator[tuple[str, JSONObject]]:
    """Give the reports that stand under their own names, as AWS sends them: ``{"throttlingException": {...}}``."""
    for name, inner in payload.items():
        if isinstance(inner, dict) and name not in _NO_NAMES and name.lower().endswith(("exception", "error")):
            yield name, inner


def _words_anywhere(value: Any, depth: int = 0) -> Iterator[str]:
    """Give the words of a report in a shape that is new to us, wherever they stand."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, list):
        for each in value[:_MAX_ERRORS]:
            yield from _words_anywhere(each, depth + 1)
    elif isinstance(value, dict):
        for name, inner in value.items():
            texts = inner if isinstance(inner, list) else [inner]
            if name.lower() in _ANY_WORDS:
                yield from (text for each in texts if isinstance(each, str) and (text := _printable(each)))
            yield from _words_anywhere(inner, depth + 1)


class _Reader:
    """Goes through a body, the innermost report first; what is found first stays."""

    def __init__(self, report: ErrorReport) -> None:
        self._report = report

    def read(self, value: Any, depth: int) -> None:
        """Read a value of any kind; what lies too deep is left."""
        if depth > _MAX_DEPTH:
            return
        if isinstance(value, str):
            self._read_text(value, depth)
        elif isinstance(value, list):
            self._read_list(value, depth)
        elif isinstance(value, dict):
            self._read_object(value, depth)

    def _read_text(self, text: str, depth: int) -> None:
        """Read words, or a report that was written into a string."""
        if (embedded := _embedded(text)) is not None:
            inner = ErrorReport()
            with suppress(json.InvalidJSON, UnicodeEncodeError):
                _Reader(inner).read(json.decode(embedded.encode()), depth + 1)
            if inner.message:
                self._take(inner)
                return
        if not self._report.message:
            self._report.message = (_from_page(text) if _is_page(text) else _printable(text))[:_MAX_WORDS]

    def _read_list(self, values: list[Any], depth: int) -> None:
        """Read several errors: their words together, all else of the first."""
        messages = []
        for value in values[:_MAX_ERRORS]:
            inner = ErrorReport()
            _Reader(inner).read(value, depth + 1)
            if inner.message:
                messages.append(inner.message)
                inner.message = ""
            self._take(inner)
        if messages and not self._report.message:
            self._report.message = "; ".join(dict.fromkeys(messages))[:_MAX_WORDS]

    def _read_object(self, value: JSONObject, depth: int) -> None:
        report = self._report
        if value.get("type") == "error" and isinstance(value.get("error"), dict) and _text(value["error"].get("type")):
            report.is_claude = True
        metadata = value.get("metadata")
        if isinstance(metadata, dict) and metadata.get("raw"):
            self._read_raw(metadata["raw"], depth)
        for key in _INNER:
            if isinstance(value.get(key), (dict, list)):
                self.read(value[key], depth + 1)
        if isinstance(value.get("loc"), list):
            self._read_place(value)
        for key in _WORDS:
            if not report.message and isinstance(value.get(key), (str, dict, list)):
                self.read(value[key], depth + 1)
        for key in ("data", "header"):
            if not report.message and isinstance(value.get(key), dict):
                self.read(value[key], depth + 1)
        for name, inner in named_reports(value):
            self.read({"type": name, **inner}, depth + 1)
        self._read_names(value)

    def _read_raw(self, raw: Any, depth: int) -> None:
        """Read what the provider behind the server said, if it said something."""
        inner = ErrorReport()
        _Reader(inner).read(raw, depth + 1)
        if inner.message:
            self._take(inner)

    def _read_place(self, value: JSONObject) -> None:
        """Read one entry of FastAPI's list: where something is wrong, and what."""
        place = ".".join(str(part) for part in value["loc"] if part != "body")
        words = value.get("msg")
        if isinstance(words, str) and not self._report.message:
            self._report.message = (f"{place}: {words}" if place else words)[:_MAX_WORDS]
        if place and self._report.param is None:
            self._report.param = place

    def _read_names(self, value: JSONObject) -> None:
        """Read codes, types, the parameter, the status and the wait."""
        report = self._report
        code = _code(value)
        kind = _text(value.get("type")) or _text(value.get("__type"))
        if kind is not None:
            kind = kind.rpartition("#")[2].partition(":http")[0]
        kind = None if kind == "error" else kind
        names = {
            code,
            kind,
            *(_text(value.get(key)) for key in ("status", "reason", "error_type")),
            *_deeper_codes(value),
        }
        report.names |= {name.lower() for name in names if name}
        # The names of an entry in a list of places are the validator's, not the error's.
        if "loc" not in value:
            report.code = report.code or code
            report.type = report.type or kind
            report.param = report.param or _text(value.get("param"))
        if report.status is None:
            report.status = status_in(value)
        if report.retry_after_s is None:
            report.retry_after_s = _wait_in(value)
        if isinstance(metadata := value.get("metadata"), dict) and report.retry_after_s is None:
            report.retry_after_s = _wait_in(metadata)
        details = value.get("details")
        for detail in details[:_MAX_ERRORS] if isinstance(details, list) else ():
            if isinstance(detail, dict) and "details" not in detail:
                self._read_names(detail)

    def _take(self, inner: ErrorReport) -> None:
        """Fill up with what another report says."""
        report = self._report
        report.message = report.message or inner.message
        report.type = report.type or inner.type
        report.param = report.param or inner.param
        report.code = report.code or inner.code
        report.status = report.status if report.status is not None else inner.status
        report.retry_after_s = report.retry_after_s if report.retry_after_s is not None else inner.retry_after_s
        report.names |= inner.names
        report.is_claude = report.is_claude or inner.is_claude


def _code(value: JSONObject) -> str | None:
    """Return the code of a report, with the name of the server where the number means nothing elsewhere."""
    if "status_msg" in value and (code := _text(value.get("status_code"))):
        return f"minimax:{code}"
    if "error_msg" in value and (code := _text(value.get("error_code"))):
        return f"baidu:{code}"
    details = value.get("details")
    own = details.get("error_code") if isinstance(details, dict) else None
    return _text(own) or _text(value.get("code")) or _text(value.get("error_code"))


def _deeper_codes(value: JSONObject) -> list[str | None]:
    """Return the codes that stand beside the main one: Azure's, and Cloudflare's numbers."""
    inner = value.get("innererror")
    found = [_text(inner.get("code"))] if isinstance(inner, dict) else []
    errors = value.get("errors")
    if isinstance(errors, list) and "success" in value:
        numbers = [_text(each.get("code")) for each in errors[:_MAX_ERRORS] if isinstance(each, dict)]
        found += [f"cloudflare:{number}" for number in numbers if number]
    return found


def status_in(value: JSONObject) -> int | None:
    """Return the HTTP status that a report names, if it is that of an error."""
    for key in ("code", "status", "status_code", "statusCode", "error_code", "errcode"):
        found = value.get(key)
        if isinstance(found, str) and found.isascii() and found.isdigit():
            found = int(found[:4])
        if isinstance(found, int) and 400 <= found <= 599:
            return found
    return None


def _text(value: Any) -> str | None:
    """Return a name, or a number as text; None for all else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**12 else None
    return value.strip() or None if isinstance(value, str) else None


def _embedded(text: str) -> str | None:
    """Return a report inside a sentence: `Error from provider (404): {"error": ...}`."""
    starts = [at for at in (text.find("{", 0, _MAX_TEXT), text.find("[{", 0, _MAX_TEXT)) if at >= 0]
    end = max(text.rfind("}"), text.rfind("]"))
    return text[min(starts) : end + 1] if starts and end - min(starts) < 4 * _MAX_TEXT else None


def _is_page(text: str) -> bool:
    return re.match(r"\s*<(?:!doctype|html|head|body|\?xml|center|h1|title)\b", text, re.IGNORECASE) is not None


def _from_page(text: str) -> str:
    """Return the words of a page: its title and its first heading, else its text."""
    found = re.findall(r"<(title|h1)\b[^>]{0,500}>(.{0,1000}?)</\1>", text[:_MAX_TEXT], re.IGNORECASE | re.DOTALL)
    words = dict.fromkeys(_bare(part) for _, part in found[:2])
    shown = ": ".join(part for part in words if part)
    return shown or _bare(
        re.sub(r"<(script|style)\b.*?(</\1>|$)", " ", text[:_MAX_TEXT], flags=re.IGNORECASE | re.DOTALL)
    )


def _bare(markup: str) -> str:
    """Return the text between tags."""
    return " ".join(html.unescape(re.sub(r"<[^<>]*>", " ", markup)).split())


def _printable(text: str) -> str:
    """Return a text; "" for bytes that are not text."""
    text = text.strip()
    odd = sum(character == "\ufffd" or (character < " " and character not in "\t\r\n") for character in text[:200])
    return "" if odd * 4 > len(text[:200]) else text


def _wait_in(value: JSONObject) -> float | None:
    """Return the wait that a report names in a field, in seconds."""
    found = next((value[key] for key in _WAITS if value.get(key) is not None), None)
    if isinstance(found, (int, float)) and not isinstance(found, bool):
        return float(found)
    return durations.read(found) if isinstance(found, str) else None
