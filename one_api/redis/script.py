"""A script that runs inside Redis."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Any


@dataclass(frozen=True, slots=True)
class Script:
    """A script, and the name by which Redis knows one that it has seen."""

    text: str
    digest: str

    @classmethod
    def of(cls, text: str) -> "Script":
        """Return a script of this text."""
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())

    def command(self, names: Sequence[str], *arguments: Any) -> tuple[Any, ...]:
        """Return the command that runs it on the keys of these names."""
        return "EVALSHA", self.digest, len(names), *names, *arguments

    def evaluation(self, command: Sequence[Any]) -> tuple[Any, ...]:
        """Return what ``command`` made, in a form for a Redis that has not seen the script."""
        return "EVAL", self.text, *command[2:]
