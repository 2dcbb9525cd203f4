"""The tables, as the last change of ``migrations`` leaves them.

Money is whole nano-dollars, moments are UTC milliseconds, starts of buckets UTC seconds. A key goes by its name: it
never changes, and is what the log and the limits call the key.
"""

from functools import lru_cache
from importlib import import_module
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, Text

from one_api.accounts import percentiles

METADATA = MetaData()
#: The last change that makes them so.
REVISION = "0011"

#: One row for each request that an upstream was asked for, or that a kept answer served.
LEDGER = Table(
    "ledger",
    METADATA,
    # The id of the request; ids rise with time.
    Column("id", String(40), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("key", String(256), nullable=False),
    Column("model", String(256), nullable=False),
    Column("deployment", String(512)),
    # ok, interrupted (its answer was cut short), cancelled (its client left) or failed; presumed, where its process has
    # died before its end; credit, which is no request, but a correction by an administrator
    Column("status", String(16), nullable=False),
    Column("http_status", Integer),
    Column("error", String(128)),
    Column("stream", Boolean, nullable=False),
    Column("cache", String(16)),
    # Tokens; null is not known. Those of the prompt include cached and cache_write, those of the completion reasoning.
    Column("prompt", BigInteger),
    Column("cached", BigInteger),
    Column("cache_write", BigInteger),
    Column("completion", BigInteger),
    Column("reasoning", BigInteger),
    # What the key owes; null where there is no price. What upstreams take for all attempts together.
    Column("cost", BigInteger),
    Column("upstream_cost", BigInteger),
    # The prices that cost was made with, as JSON.
    Column("rates", String(256)),
    Column("ms", Integer, nullable=False),
    Column("first_ms", Integer),
    Column("attempts", Integer, nullable=False),
    # Every attempt with its candidates, as JSON.
    Column("tries", Text),
    # The tokens, and with them the cost, are an estimate: the upstream has not said. Null is false.
    Column("estimated", Boolean),
    # What was taken from the budgets before an upstream was asked; null without a budget.
    Column("reserve", BigInteger),
    # The windows of budgets that the cost counts for: pairs of ``budget`` and ``start`` as a list in JSON.
    Column("charged", Text),
    # What it took beside tokens: images, seconds, characters, search_units or documents.
    Column("units", Float),
    Column("unit", String(16)),
    # Its tokens of audio, images and video, by modality, and the prices of these, as JSON; null is none of them.
    Column("modalities", Text),
    Index("ledger_key_id", "key", "id"),
)

#: Sums of the ledger and of what was refused, for each minute (span 60) and each quarter of an hour (span 900): a day
#: begins with one in every zone. Programs of before have kept them by the hour (span 3600).
USAGE = Table(
    "usage",
    METADATA,
    Column("span", Integer, primary_key=True, autoincrement=False),
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    Column("key", String(256), primary_key=True),
    Column("model", String(256), primary_key=True),
    # Empty where no upstream was asked.
    Column("deployment", String(512), primary_key=True),
    *(
        Column(name, BigInteger, nullable=False)
        for name in (
            "requests",
            "errors",
            # Requests that were turned away before any upstream was asked: these have no row in the ledger.
            "refused",
            "cancelled",
            "cached_answers",
            # Answers whose tokens, or whose price, are not known: they are in no sum of costs.
            "unpriced",
            "prompt",
            "cached",
            "completion",
            "cost",
            "upstream_cost",
            "ms",
            "first_ms",
            # How many requests first_ms is the sum of.
            "firsts",
        )
    ),
    # How many first contents, and how many whole answers, came within so many milliseconds: each in one step alone.
    *(
        Column(name, BigInteger, nullable=False, server_default="0")
        for name in (*percentiles.FIRST.columns, *percentiles.WHOLE.columns)
    ),
    Index("usage_key", "key", "span", "start"),
)

#: Values by name. ``version`` rises with every change of keys and teams, in the same transaction.
META = Table(
    "meta",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

#: Groups of keys. None is deleted: a disabled one keeps its name.
TEAMS = Table(
    "teams",
    METADATA,
    Column("name", String(256), primary_key=True),
    # Ids of models and patterns as a list in JSON; null is all.
    Column("models", Text),
    Column("note", Text),
    Column("disabled_at", BigInteger),
)

#: Keys. None is deleted: one that was revoked keeps its digest, so that it cannot come back.
KEYS = Table(
    "keys",
    METADATA,
    Column("name", String(256), primary_key=True),
    # SHA-256 of the key; and of the one before it, which counts until ``old_until``.
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("old_digest", LargeBinary(32), unique=True),
    Column("old_until", BigInteger),
    # The first and last characters, for people who look for one.
    Column("prefix", String(32), nullable=False),
    # client, viewer (reads what is for administrators) or admin
    Column("role", String(16), nullable=False),
    Column("team", String(256)),
    Column("owner", String(256)),
    # Lists in JSON; null is all.
    Column("models", Text),
    Column("networks", Text),
    Column("tags", Text),
    Column("note", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("disabled_at", BigInteger),
    # Requests and tokens per minute, and requests at a time: null is what is configured for all keys, 0 no limit.
    Column("rpm", Integer),
    Column("tpm", Integer),
    Column("concurrent", Integer),
)

#: Texts that keys had, but for the last one where that still counts. None is deleted: they cannot come back either.
FORMER_KEYS = Table(
    "former_keys",
    METADATA,
    # SHA-256 of the text.
    Column("digest", LargeBinary(32), primary_key=True),
    # Whose it was.
    Column("key", String(256), nullable=False),
    # UTC milliseconds; 0 where it counts no more.
    Column("counts_until", BigInteger, nullable=False),
)

#: How much may be spent in each day, week or month, or at all.
BUDGETS = Table(
    "budgets",
    METADATA,
    # Made of the three that follow: key:NAME:PERIOD, team:NAME:PERIOD or all:PERIOD.
    Column("name", String(300), primary_key=True),
    # Whose it is; without both it is that of all keys together.
    Column("key", String(256)),
    Column("team", String(256)),
    # day, week, month or total
    Column("period", String(8), nullable=False),
    # The time zone in which days begin.
    Column("zone", String(64), nullable=False),
    Column("limit_nano", BigInteger, nullable=False),
    # When this much is spent, it is logged; 0 is never.
    Column("alert_percent", Integer, nullable=False),
)

#: A budget's day, week or month, from its first use on. They stay when the budget goes, and count when it comes back.
WINDOWS = Table(
    "windows",
    METADATA,
    Column("budget", String(300), primary_key=True),
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    # The costs of all rows of the ledger that are charged to it.
    Column("spent", BigInteger, nullable=False),
    # Rises when a process needs what others hold and do not use.
    Column("wanted", Integer, nullable=False),
    # The percentage of the last alert.
    Column("alerted", Integer, nullable=False),
)

#: What each process has taken of a window, to spend it without asking. All of a window, and what was spent, stay within
#: its limit.
LEASES = Table(
    "leases",
    METADATA,
    Column("budget", String(300), primary_key=True),
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    # A process, by a name that no other has; its journal begins with it.
    Column("holder", String(64), primary_key=True),
    Column("amount", BigInteger, nullable=False),
    # The part of it that requests had reserved, or had spent and not booked, when the process last said so, less what
    # was booked since.
    Column("held", BigInteger, nullable=False),
    # How often others had asked for what is idle when it last gave that back.
    Column("seen", Integer, nullable=False),
    # When the process counts as lost, in UTC milliseconds of the database's clock.
    Column("expires_at", BigInteger, nullable=False),
    Index("leases_holder", "holder"),
)

#: Every change of keys, teams and budgets; never a key or a digest.
AUDIT = Table(
    "audit",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    # The name of the key that did it, or of the person at the command line.
    Column("actor", String(256), nullable=False),
    Column("action", String(32), nullable=False),
    Column("target", String(256), nullable=False),
    # What was changed, as JSON: from, and to.
    Column("before", Text),
    Column("after", Text),
)

#: Responses that clients can read again and go on from.
RESPONSES = Table(
    "responses",
    METADATA,
    Column("id", String(64), primary_key=True),
    # The name of the key that made it; no other key finds it.
    Column("owner", String(256), nullable=False),
    # The response that it goes on from.
    Column("parent", String(64)),
    Column("status", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    # Of both columns below, in bytes.
    Column("size", Integer, nullable=False),
    # As JSON: the items that were sent for it, and the response object.
    Column("items", LargeBinary, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Index("responses_expires_at", "expires_at"),
)


@lru_cache
def adding_to(table: Table, dialect: str, sums: tuple[str, ...], sets: tuple[str, ...] = ()) -> Any:
    """Return the statement that inserts rows; of those that are there already it adds to ``sums``, and sets ``sets``.

    Only the ``dialect`` in use is imported.
    """
    insert: Any = import_module(f"sqlalchemy.dialects.{dialect}").insert(table)
    changed = {name: table.c[name] + insert.excluded[name] for name in sums}
    changed |= {name: insert.excluded[name] for name in sets}
    return insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed)
