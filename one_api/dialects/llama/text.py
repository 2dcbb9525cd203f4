"""Legacy completions of the local engine: what it is asked, and its stream in OpenAI's form."""

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

from one_api.dialects.checks import missing
from one_api.dialects.json import JSONObject
from one_api.dialects.llama.parameters import DECIMALS, SAMPLING, check_values, given_in, stop_strings, wrong_type
from one_api.dialects.llama.request import Model
from one_api.dialects.openai.response import Identity
from one_api.dialects.openai.text_completion import TextStream
from one_api.dialects.sse import Event
from one_api.errors import InvalidRequest

#: A text, or the ids of its tokens.
Prompt: TypeAlias = str | list[int]

#: The length of an answer when the request does not say, in tokens: OpenAI's own default.
_DEFAULT_TOKENS = 16
#: The most choices of one request: ``n`` for each prompt.
_MAX_CHOICES = 128
_INTEGERS = {
    "max_tokens": (1, 2**63 - 1), "n": (1, 128), "best_of": (1, 128), "logprobs": (0, 5),
    "seed": (-(2**63), 2**63 - 1), "top_k": (0, 1_000_000), "repeat_last_n": (-1, 1_000_000),
}  # fmt: skip
_OTHERS: dict[str, tuple[type, str]] = {
    "echo": (bool, "a boolean"),
    "cache_prompt": (bool, "a boolean"),
    "logit_bias": (dict, "an object"),
    "grammar": (str, "a string"),
    "suffix": (str, "a string"),
}
#: What the engine is sent as it came.
_SENT = DECIMALS.keys() | {"top_k", "repeat_last_n", "cache_prompt", "logit_bias", "grammar"}
#: What is acted on here, or changes nothing in an answer of a local model.
_READ = _INTEGERS.keys() | _OTHERS.keys() | {"model", "prompt", "stop", "stream", "stream_options", "user"}
#: The engine takes the largest seed for "choose one".
_SEEDS = 2**32 - 1
#: A name that can be put into a header, and how many are put there.
_NAME, _MAX_DROPPED = re.compile(r"[A-Za-z0-9_.-]{1,64}").fullmatch, 20
#: Keys of the engine's answers that are no part of OpenAI's format.
_ENGINE_KEYS = ("timings", "__verbose")


@dataclass(frozen=True, slots=True)
class LocalText:
    """A checked request. Its choices, ``n`` for each prompt, are asked for one by one: only so are they all counted."""

    body: JSONObject
    prompts: list[Prompt]
    n: int
    seed: int | None
    #: How many of the likeliest tokens are listed at each place; None: no log probabilities.
    logprobs: int | None
    #: Parameters that were left out although they might have had an effect.
    dropped: list[str]

    @property
    def choices(self) -> int:
        """Return how many choices there are."""
        return len(self.prompts) * self.n

    def body_of(self, index: int) -> JSONObject:
        """Return what the engine is asked for one choice: seeds differ, so that the choices differ."""
        seed = {} if self.seed is None else {"seed": (self.seed + index % self.n) % _SEEDS}
        return {**self.body, "prompt": self.prompts[index // self.n], **seed}


def read_text_request(body: JSONObject, model: Model) -> LocalText:
    """Check ``body`` and return what the engine is asked.

    Raises:
        InvalidRequest: naming the first thing that is wrong, or that the engine cannot do, by ``param``.
    """
    given = given_in(body)
    prompts, n = _prompts_in(given), _checked(given)
    if len(prompts) * n > _MAX_CHOICES:
        raise InvalidRequest(f"At most {_MAX_CHOICES} choices are possible in one request.", param="n")
    logprobs = given.get("logprobs")
    sent = {key: value for key, value in given.items() if key in _SENT}
    if logprobs is not None:
        sent["logprobs"] = max(1, logprobs)  # the engine takes 0 for none at all
    most = min(given.get("max_tokens", _DEFAULT_TOKENS), model.context_tokens)
    asked = {**SAMPLING, **model.sampling, **sent, "max_tokens": most, "stream": True, **stop_strings(given)}
    dropped = [key for key in given if key not in _SENT and key not in _READ and _NAME(key)]
    return LocalText(asked, prompts, n, given.get("seed"), logprobs, dropped[:_MAX_DROPPED])


def _checked(given: JSONObject) -> int:
    """Check all parameters but the prompt, and return ``n``."""
    check_values(given, _INTEGERS, _OTHERS)
    n: int = given.get("n", 1)
    if given.get("suffix"):
        raise _impossible("suffix", "put the marks of this model for a gap into `prompt` instead")
    if given.get("echo"):
        raise _impossible("echo", "the prompt is not part of the answer, nor are its log probabilities")
    if given.get("best_of", n) > n:
        raise _impossible("best_of", "ask for `n` choices instead")
    return n


def _impossible(param: str, advice: str) -> InvalidRequest:
    message = f"`{param}` cannot be used with a local model: {advice}."
    return InvalidRequest(message, param=param, code="unsupported_parameter")


def _prompts_in(given: JSONObject) -> list[Prompt]:
    """Return the prompts: one, or each entry of an array that is not itself an array of token ids."""
    prompt = given.get("prompt")
    if prompt is None:
        raise missing("prompt")
    prompts: list[Any] = prompt if isinstance(prompt, list) and prompt and not _is_token(prompt[0]) else [prompt]
    if not all(isinstance(each, str) or _is_tokens(each) for each in prompts):
        raise wrong_type("prompt", "a string, strings, token ids, or arrays of token ids")
    if not all(prompts):
        raise InvalidRequest("`prompt` cannot be empty here.", param="prompt", code="invalid_value")
    return prompts


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_token, value))


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


class LocalTextStream(TextStream):
    """Reads the engine's events of one choice: its log probabilities become those of legacy completions."""

    def __init__(self, identity: Identity, *, logprobs: int | None) -> None:
        super().__init__(identity, include_usage=False)
        self._shown = identity
        self._logprobs = logprobs
        #: How many characters of the text have come.
        self._length = 0

    def feed(self, event: Event) -> list[JSONObject]:
        """See ``TextStream``."""
        chunks = super().feed(event)
        for chunk in chunks:
            for key in _ENGINE_KEYS:
                chunk.pop(key, None)
            chunk["id"], chunk["created"], chunk["model"] = self._shown.id, self._shown.created, self._shown.model
            for choice in chunk["choices"]:
                choice["logprobs"] = self._legacy(choice.get("logprobs"))
                self._length += len(choice["text"])
        return chunks

    def _legacy(self, logprobs: Any) -> JSONObject | None:
        entries = logprobs.get("content") if isinstance(logprobs, dict) else None
        if self._logprobs is None or not isinstance(entries, list):
            return None
        found: JSONObject = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        offset = self._length
        for entry in entries:
            token = str(entry.get("token"))
            found["tokens"].append(token)
            found["token_logprobs"].append(entry.get("logprob"))
            likeliest = entry.get("top_logprobs") or ()
            found["top_logprobs"].append({str(each["token"]): each["logprob"] for each in likeliest})
            found["text_offset"].append(offset)
            offset += len(token)
        return found if self._logprobs else found | {"top_logprobs": None}
