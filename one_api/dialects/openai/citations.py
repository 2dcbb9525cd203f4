"""Sources that stand beside an answer, as the annotations of its text: Perplexity's and xAI's.

The text refers to them by number, as in ``[1]``. https://docs.perplexity.ai/api-reference/chat-completions-post
"""

import re
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

from one_api.dialects.json import JSONObject

#: Where they stand, the one that says most first: objects with a title, and addresses alone.
_BEST_FIRST = ("search_results", "citations")
NAMES = frozenset(_BEST_FIRST)
#: More sources than this are not told.
_MAX_SOURCES = 200
#: A text refers to one more often than this only by chance.
_MAX_MARKS = 1000
_MARK = re.compile(r"\[(\d{1,3})\]")


def sources_in(payload: JSONObject) -> list[JSONObject]:
    """Return the address and the title of each source beside an answer or chunk."""
    for name in _BEST_FIRST:
        given = payload.get(name)
        found = list(_sources(given)) if isinstance(given, list) else []
        if found:
            return found
    return []


def _sources(given: list[Any]) -> Iterator[JSONObject]:
    for each in given[:_MAX_SOURCES]:
        source = {"url": each} if isinstance(each, str) else each
        if isinstance(source, dict) and isinstance(source.get("url"), str) and source["url"]:
            title = source.get("title")
            yield {"url": source["url"], "title": title if isinstance(title, str) else ""}


def annotations_of(sources: list[JSONObject], text: str) -> list[JSONObject]:
    """Return chat's annotations, in order: wherever ``text`` refers to a source, and at its end for all others."""
    marks: dict[int, list[tuple[int, int]]] = {}
    for count, mark in enumerate(_MARK.finditer(text)):
        if count == _MAX_MARKS:
            break
        marks.setdefault(int(mark[1]), []).append(mark.span())
    end = (len(text), len(text))
    cited = [
        {"start_index": at[0], "end_index": at[1], **source}
        for number, source in enumerate(sources, 1)
        for at in marks.get(number, [end])
    ]
    return [{"type": "url_citation", "url_citation": each} for each in sorted(cited, key=itemgetter("start_index"))]
