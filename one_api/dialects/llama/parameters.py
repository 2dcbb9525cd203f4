"""Checks of single parameters of requests to the local engine, which believes almost anything."""

from collections.abc import Mapping
from typing import Any

from one_api.dialects.json import JSONObject
from one_api.errors import InvalidRequest

#: Parameter -> its bounds, as OpenAI has them.
DECIMALS = {
    "temperature": (0, 2), "top_p": (0, 1), "min_p": (0, 1), "typical_p": (0, 1), "repeat_penalty": (0.01, 10),
    "frequency_penalty": (-2, 2), "presence_penalty": (-2, 2),
}  # fmt: skip
#: OpenAI's defaults, where the engine has others.
SAMPLING: Mapping[str, float] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}


def given_in(body: JSONObject) -> JSONObject:
    """Return the parameters that a request gives: what is null is not given, and vLLM's names are the engine's."""
    given = {key: value for key, value in body.items() if value is not None}
    if "repetition_penalty" in given:
        given.setdefault("repeat_penalty", given.pop("repetition_penalty"))
    return given


def check_values(
    given: JSONObject, integers: Mapping[str, tuple[int, int]], others: Mapping[str, tuple[type, str]]
) -> None:
    """Raise InvalidRequest for numbers that are not numbers or out of bounds, and for other values of a wrong type."""
    for key in given.keys() & DECIMALS.keys():
        check_number(key, given[key], *DECIMALS[key], "decimal")
    for key in given.keys() & integers.keys():
        check_number(key, given[key], *integers[key], "integer")
    for key in given.keys() & others.keys():
        kind, words = others[key]
        if not isinstance(given[key], kind):
            raise wrong_type(key, words)
    _check_biases(given.get("logit_bias", {}))
    if given.get("grammar", "").startswith("%llguidance"):  # the engine ignores one that it cannot compile
        advice = "`grammar` takes GBNF; for a JSON schema use `response_format`."
        raise InvalidRequest(advice, param="grammar", code="unsupported_value")


def check_number(key: str, value: Any, low: float, high: float, kind: str) -> None:
    """Raise InvalidRequest unless ``value`` is a number of the ``kind`` (integer or decimal) within its bounds."""
    if isinstance(value, bool) or not isinstance(value, int if kind == "integer" else (int, float)):
        raise wrong_type(key, f"{'an integer' if kind == 'integer' else 'a number'}")
    if not low <= value <= high:
        side, bound = ("below_min", low) if value < low else ("above_max", high)
        raise InvalidRequest(
            f"Invalid value for `{key}`: {value} is {side.split('_')[0]} {bound}.",
            param=key,
            code=f"{kind}_{side}_value",
        )


def stop_strings(given: JSONObject) -> JSONObject:
    """Return ``stop`` for the engine, for which an empty string would end every answer at its first token.

    Raises:
        InvalidRequest: unless ``stop`` is a string, or at most four of them.
    """
    stop = given.get("stop", [])
    _check_stop(stop)
    wanted = [each for each in ([stop] if isinstance(stop, str) else stop) if each]
    return {"stop": wanted} if wanted else {}


def _check_stop(stop: Any) -> None:
    if isinstance(stop, str):
        return
    if not isinstance(stop, list) or not all(isinstance(each, str) for each in stop):
        raise wrong_type("stop", "a string or an array of strings")
    if len(stop) > 4:
        raise InvalidRequest("`stop` holds more than 4 strings.", param="stop", code="array_above_max_length")


def _check_biases(biases: JSONObject) -> None:
    """Raise InvalidRequest unless ``logit_bias`` has numbers of tokens, and for each a bias from -100 to 100.

    The engine takes another key for a text, and leaves out a value that it does not understand.
    """
    for token, bias in biases.items():
        if not (token.isascii() and token.isdecimal()):
            raise wrong_type("logit_bias", "the model's token numbers as keys")
        check_number("logit_bias", bias, -100, 100, "decimal")


def wrong_type(param: str, expected: str) -> InvalidRequest:
    """Return the refusal of a value that is not of the type that is ``expected``."""
    return InvalidRequest(f"Invalid type for `{param}`: expected {expected}.", param=param, code="invalid_type")
