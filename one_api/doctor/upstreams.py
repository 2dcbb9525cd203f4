"""What the gateway needs of each upstream: an answer, a key that is accepted, models, and a clock that is right."""

import difflib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import urlsplit

from one_api.config import Config
from one_api.dialects import json
from one_api.doctor.asking import Answer, NoAnswer, Question, ask, connect
from one_api.doctor.finding import Finding, ok, problem, warning
from one_api.errors import UpstreamBroken
from one_api.models.adapters import claude, openai
from one_api.settings.adapters import ClaudeConfig, OpenAIConfig
from one_api.settings.proxies import proxy_for
from one_api.settings.sections import targets
from one_api.upstream.discovery import entries_of

Remote = OpenAIConfig | ClaudeConfig

#: A clock that is further away than this is worth a warning, in seconds.
MAX_SKEW_S = 30.0
#: So many upstreams are asked at once.
_MAX_AT_ONCE = 16
#: The ports of proxies whose address names none.
_SOCKS_PORT = 1080


def of_upstreams(config: Config) -> list[Finding]:
    """Return what is found at each upstream of a configuration; they are asked side by side."""
    remote = {name: each for name, each in config.adapters.items() if isinstance(each, Remote)}
    if not remote:
        return []
    wanted = {name: models_wanted(name, settings, config) for name, settings in remote.items()}
    with ThreadPoolExecutor(min(_MAX_AT_ONCE, len(remote))) as pool:
        found = pool.map(lambda name: list(of_upstream(name, remote[name], wanted[name])), remote)
        return [finding for findings in found for finding in findings]


def models_wanted(name: str, settings: Remote, config: Config) -> list[str]:
    """Return the models of an adapter that the configuration names: in its own list and in groups."""
    entries = [target for group in config.model_groups.values() for target in targets(group.targets + group.fallbacks)]
    in_groups = [target.model.removeprefix(f"{name}/") for target in entries if target.model.startswith(f"{name}/")]
    return list(dict.fromkeys([*(settings.models or ()), *in_groups]))


def question_to(settings: Remote) -> Question:
    """Return what asks an upstream for its models, as its adapter does."""
    if isinstance(settings, ClaudeConfig):
        url = f"{settings.base_url.rstrip('/').removesuffix('/v1')}/v1/models?limit=1000"
        headers = claude.request_headers(settings)
    else:
        url = f"{settings.base_url.rstrip('/')}/models"
        headers = openai.request_headers(settings)
    return Question(url, headers, proxy_for(settings.base_url, settings.proxy), settings.timeouts.connect_s)


def of_upstream(name: str, settings: Remote, wanted: list[str]) -> Iterator[Finding]:
    """Yield what is found at one upstream; ``wanted`` are the models that the configuration names there."""
    where, question = f"adapters.{name}", question_to(settings)
    if question.proxy and question.proxy.startswith("socks"):
        yield _socks(where, question)
        return
    try:
        answer = ask(question)
    except NoAnswer as error:
        yield problem(where, f"{_host(settings)}: {error.what}", error.fix)
        return
    yield from _judged(where, settings, answer, wanted)
    if answer.skew_s is not None and abs(answer.skew_s) > MAX_SKEW_S:
        side = "ahead of" if answer.skew_s > 0 else "behind"
        what = f"its clock is {abs(answer.skew_s):.0f} s {side} the clock of this machine"
        yield warning(where, what, "Set this machine's clock by NTP: dates, tokens and certificates depend on it")
    if answer.status == 200 and settings.api_key is not None and _is_open(question):
        yield ok(where, "it lists its models without a key, so whether the key is accepted was not checked")


def _host(settings: Remote) -> str:
    return urlsplit(settings.base_url).netloc


def _is_open(question: Question) -> bool:
    """Return whether the same answer is had without the key."""
    bare = {name: value for name, value in question.headers.items() if name.startswith("anthropic-")}
    try:
        return ask(replace(question, headers=bare)).status == 200
    except NoAnswer:
        return False


def _socks(where: str, question: Question) -> Finding:
    """Return whether a SOCKS proxy is there; what is behind it is not asked."""
    parts = urlsplit(question.proxy or "")
    if connect((parts.hostname or "", parts.port or _SOCKS_PORT), question.connect_s):
        fix = "Send a request through the gateway to see whether the upstream answers"
        return warning(where, "its SOCKS proxy accepts connections, and the upstream was not asked", fix)
    return problem(
        where, "nothing listens at the address of its SOCKS proxy", "Start the proxy, or correct its address"
    )


def _judged(where: str, settings: Remote, answer: Answer, wanted: list[str]) -> Iterator[Finding]:
    """Yield what an answer to the question for the models means."""
    if answer.status == 200:
        yield from _models(where, settings, answer.body, wanted)
        return
    said = f"{_host(settings)} answers with status {answer.status}"
    if answer.status == 401 or (answer.status == 403 and settings.api_key is None):
        what = "refuses the key" if settings.api_key else "asks for a key, and none is set"
        yield problem(where, f"{said}: it {what}", f"Put the key of this account into {where}.api_key or its variable")
    elif answer.status == 403:
        yield problem(
            where, f"{said}: the key may not be used for this", "Check the rights of the key, and its project"
        )
    elif answer.status in (404, 405, 501) and settings.models is not None:
        yield ok(
            where, f"{_host(settings)} answers and has no model list, so neither its key nor its models were checked"
        )
    elif answer.status in (404, 405, 501):
        fix = "Correct the path of base_url (most end in /v1), or list the models in the configuration"
        yield problem(where, f"{said}: it has no model list there", fix)
    elif 300 <= answer.status < 400:
        yield problem(where, f"{said}: a redirect, which is not followed", "Write the address that it leads to")
    elif answer.status == 407:
        yield problem(
            where, "its proxy asks for a user and a password", "Write them into proxy: http://USER:PASSWORD@HOST"
        )
    elif answer.status == 429:
        yield warning(where, f"{said}: its limit is reached", "Wait, or ask its provider for a higher limit")
    else:
        yield problem(where, said, "Look at the state of its server, and at the address")


def _models(where: str, settings: Remote, body: bytes, wanted: list[str]) -> Iterator[Finding]:
    """Yield whether the models that the configuration names are in the upstream's list."""
    try:
        page = json.decode_generously(body)
        listed = [entry["id"] for entry in entries_of(page)]
    except (json.InvalidJSON, UpstreamBroken):
        fix = "Correct the path of base_url (most end in /v1), or list the models in the configuration"
        state = problem if settings.models is None else warning
        yield state(where, f"{_host(settings)} answers with something else than a model list", fix)
        return
    if not listed and settings.models is None:
        yield warning(where, f"{_host(settings)} lists no model", "Load a model there, or list its models here")
    else:
        yield ok(where, f"{_host(settings)} answers and lists {len(listed)} models")
    if isinstance(page, dict) and page.get("has_more") is True:
        return  # what is not on this page may be on another one
    known = set(listed)
    for model in wanted:
        if model not in known:
            yield warning(where, f"it does not list the model {model!r}", _near(model, listed))


def _near(model: str, listed: list[str]) -> str:
    near = difflib.get_close_matches(model, listed[:1000], 1)
    return f"Did you mean {near[0][:100]}?" if near else "Correct the name, or ask its provider for access"
