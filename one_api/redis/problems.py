"""What is wrong with a Redis, in words: of an error of its client only the kind is used, never the text."""

from dataclasses import dataclass

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)


@dataclass(frozen=True, slots=True)
class Problem:
    """``what`` is wrong, and ``fix`` says what to do. Neither holds an address or a secret."""

    what: str
    fix: str


_PASSWORD = Problem("Redis refuses the password", "Write it into the address: redis://:PASSWORD@HOST")
_CLUSTER = Problem("Redis is a node of a cluster, which is not supported", "Name a Redis that keeps all keys")
#: By the class of the client's error; the first that fits counts.
_BY_CLASS: tuple[tuple[type[Exception], Problem], ...] = (
    (AuthenticationError, _PASSWORD),
    (AuthenticationWrongNumberOfArgsError, _PASSWORD),
    (
        NoPermissionError,
        Problem(
            "Redis does not let this user do what is needed",
            "Give it a password in the address, or allow `+@all ~one_api:*` with ACL SETUSER",
        ),
    ),
    (ReadOnlyError, Problem("Redis takes no writes, as a replica does", "Name its primary in the address")),
    (OutOfMemoryError, Problem("Redis has no memory left", "Raise its `maxmemory`, or empty it")),
    (BusyLoadingError, Problem("Redis is still loading its data", "Wait until it has; its log says how far it is")),
    (MasterDownError, Problem("Redis is a replica that has lost its primary", "Name its primary in the address")),
    (ClusterDownError, _CLUSTER),
    (ClusterCrossSlotError, _CLUSTER),
    (AskError, _CLUSTER),
)
#: By the code that an answer begins with, or its first word, for which the client has no class.
_BY_CODE = {
    "BUSY": Problem("Redis is held up by a script that runs too long", "Stop it with SCRIPT KILL"),
    "MISCONF": Problem("Redis cannot save its data, and takes no writes", "Look at its log: its disk may be full"),
    "NOREPLICAS": Problem(
        "Redis takes no writes without its replicas", "Start these, or lower its `min-replicas-to-write`"
    ),
    "max": Problem("Redis has as many clients as it allows", "Raise its `maxclients`"),
}
_REFUSAL = Problem(
    "Redis refuses to answer", "Look at its log, and at the number of the database at the end of the address"
)
_SILENCE = Problem(
    "Redis does not answer",
    "Start it, or correct the address (rediss:// only if it uses TLS); until then each process counts and caches alone",
)


def problem_of(error: Exception) -> Problem:
    """Return what is wrong with a Redis that is asked in vain: ``error`` is what its client raised."""
    for kind, problem in _BY_CLASS:
        if isinstance(error, kind):
            return problem
    code = str(error).partition(" ")[0] if isinstance(error, RedisError) else ""
    return _BY_CODE.get(code) or (_REFUSAL if isinstance(error, ResponseError) else _SILENCE)


def concerns_one_key(error: Exception) -> bool:
    """Return whether Redis refuses a command for what is kept under its key, and would not refuse others."""
    return str(error).startswith("WRONGTYPE")
