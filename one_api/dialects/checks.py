"""What is wrong with a request's values, in OpenAI's words, and the fields that are checked so."""

from typing import Any

from one_api.dialects.json import JSONObject, kind_of
from one_api.errors import InvalidRequest


def refused(message: str, param: str, code: str | None = "unsupported_value") -> InvalidRequest:
    """Return the 400 for something that cannot be done, or cannot be said in another dialect."""
    return InvalidRequest(message, param=param, code=code)


def wrong_type(param: str, expected: str, got: Any) -> InvalidRequest:
    """Return the 400 for a value of another type than is ``expected``; the value itself is not quoted."""
    return refused(f"Invalid type for `{param}`: expected {expected}, but got {kind_of(got)}.", param, "invalid_type")


def missing(param: str) -> InvalidRequest:
    """Return the 400 for a value that has to be there."""
    return refused(f"Missing required parameter: `{param}`.", param, "missing_required_parameter")


def not_among(param: str, got: Any, known: tuple[str, ...]) -> InvalidRequest:
    """Return the 400 for a word that is not among those ``known``."""
    shown = f"'{got[:64]}'" if isinstance(got, str) else kind_of(got)
    message = f"Invalid value for `{param}`: {shown}. Supported values are: {', '.join(known)}."
    return refused(message, param, "invalid_value")


def text_of(holder: JSONObject, key: str, where: str) -> str:
    """Return a field that must be a string; ``where`` is the path of ``holder``."""
    value = holder.get(key)
    if value is None:
        raise missing(f"{where}.{key}")
    if not isinstance(value, str):
        raise wrong_type(f"{where}.{key}", "a string", value)
    return value


def object_of(holder: JSONObject, key: str) -> JSONObject:
    """Return a field that is an object, or empty when it is null or absent."""
    value = holder.get(key)
    if value is not None and not isinstance(value, dict):
        raise wrong_type(key, "an object", value)
    return value or {}


def list_of(holder: JSONObject, key: str, where: str) -> list[Any]:
    """Return a field that is an array, or empty when it is null or absent; ``where`` is its own path."""
    value = holder.get(key)
    if value is not None and not isinstance(value, list):
        raise wrong_type(where, "an array", value)
    return value or []
