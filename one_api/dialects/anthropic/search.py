"""``web_search_options`` becomes Anthropic's own search tool, which the upstream runs itself."""

from typing import Any

from one_api.dialects.anthropic.options import Notes, RequestOptions
from one_api.dialects.checks import refused, wrong_type
from one_api.dialects.json import JSONObject

_PARAM = "web_search_options"
#: The only name that the upstream allows this tool.
_NAME = "web_search"
_PLACE = ("city", "country", "region", "timezone")
#: Values of ``search_context_size`` that ask for what there is.
_USUAL = (None, "medium")


def search_tool(
    body: JSONObject, declared: list[JSONObject], choice: JSONObject | None, options: RequestOptions, notes: Notes
) -> list[JSONObject]:
    """Return the tool that is to follow those ``declared``; none when the client asks for no search.

    A ``choice`` that forces or forbids tools would do so to the search as well: then it is dropped, with a warning.

    Raises:
        InvalidRequest: when the operator allows no search, or a tool of the client's own has its name.
    """
    given = body.get(_PARAM)
    if given is None:
        return []
    if options.web_search is None:
        message = f"This model is not set up for web search. Leave out `{_PARAM}`."
        raise refused(message, _PARAM, "unsupported_parameter")
    if not isinstance(given, dict):
        raise wrong_type(_PARAM, "an object", given)
    place = _place(given.get("user_location"))
    if given.keys() - {"user_location", "search_context_size"} or given.get("search_context_size") not in _USUAL:
        notes.warn(_PARAM, "Of the search only `user_location` can be chosen.")
    if choice is not None and choice["type"] != "auto":
        notes.warn(_PARAM, "There is no search while tools are forced or forbidden: use the tool choice auto.")
        return []
    if any(tool["name"] == _NAME for tool in declared):
        raise refused(f"The search is a tool named `{_NAME}`: give your tool of that name another.", _PARAM)
    return [{"type": options.web_search, "name": _NAME, **place}]


def _place(location: Any) -> JSONObject:
    """Return where the user is, in the upstream's form."""
    where = f"{_PARAM}.user_location"
    if location is None:
        return {}
    if not isinstance(location, dict):
        raise wrong_type(where, "an object", location)
    near = location.get("approximate")
    if not isinstance(near, dict):
        raise wrong_type(f"{where}.approximate", "an object", near)
    known = {key: near[key] for key in _PLACE if near.get(key)}
    for key, value in known.items():
        if not isinstance(value, str):
            raise wrong_type(f"{where}.approximate.{key}", "a string", value)
    return {"user_location": {"type": "approximate", **known}} if known else {}
