"""What an examination finds: one line, and the cure where something is to be done."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from one_api.settings.validation import Problem

State = Literal["ok", "warning", "problem"]

#: A secret that is shorter than this, in characters, is a word of ordinary texts.
_MIN_SECRET = 6
_MASK = "***"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about the gateway or its surroundings.

    ``state`` is ok, warning (it works, but not as it should) or problem (requests fail because of it). ``fix`` says
    what to do; empty when it is ok.
    """

    state: State
    #: What was examined: a setting, a file, a folder.
    where: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        text = " ".join(f"{self.where}: {self.what}{f'. {self.fix}' if self.fix else ''}".split())
        return f"{self.state:7}  {''.join(character for character in text if character.isprintable())}"


def ok(where: str, what: str) -> Finding:
    """Return a finding that asks for nothing."""
    return Finding("ok", where, what)


def warning(where: str, what: str, fix: str) -> Finding:
    """Return a finding that should be looked at."""
    return Finding("warning", where, what, fix)


def problem(where: str, what: str, fix: str) -> Finding:
    """Return a finding that keeps requests from being served."""
    return Finding("problem", where, what, fix)


def of_configuration(state: State, found: Iterable[Problem]) -> list[Finding]:
    """Return what the configuration's own check found."""
    return [Finding(state, each.where, each.what, each.fix) for each in found]


def without_secrets(findings: Iterable[Finding], secrets: Iterable[str]) -> list[Finding]:
    """Return the findings with every secret masked, wherever it came from."""
    known = sorted({secret for secret in secrets if len(secret) >= _MIN_SECRET}, key=len, reverse=True)
    return [
        replace(
            found, where=_masked(found.where, known), what=_masked(found.what, known), fix=_masked(found.fix, known)
        )
        for found in findings
    ]


def _masked(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, _MASK)
    return text


def summary(findings: list[Finding]) -> str:
    """Return how many problems and warnings there are, in words."""
    counts = {state: sum(found.state == state for found in findings) for state in ("problem", "warning")}
    words = [f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items() if count]
    return ", ".join(words) or "no problem was found"
