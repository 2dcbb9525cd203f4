"""Commands on keys, usage, prices and the database: they work whether a gateway runs or not."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from flask import Flask

from one_api.accounts.sheets import lines, text_of
from one_api.config import ConfigError, load
from one_api.dialects import json
from one_api.settings.sections import targets

if TYPE_CHECKING:
    from one_api.accounts.administration import Administration

#: Options of a key that are numbers.
_NUMBERS = ("rpm", "tpm", "concurrent")
_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@contextmanager
def administration() -> "Iterator[Administration]":
    """Open what commands work on; everything that goes wrong becomes a sentence."""
    # Only here, so that a gateway without a database imports nothing of SQLAlchemy.
    from one_api.accounts.administration import Administration, Refused

    try:
        with Administration(load().config, Path(Flask("one_api.app").instance_path)) as opened:
            yield opened
    except (ConfigError, Refused, ValueError) as error:
        raise click.ClickException(str(error)) from None


def seconds(text: str) -> int:
    """Return a time span such as 30d, 12h or 90m in seconds; raises ValueError."""
    match = re.fullmatch(r"(\d+)([mhdw])", text)
    if match is None:
        raise ValueError(f"{text!r} is no time span: write it like 90m, 12h, 30d or 2w")
    return int(match[1]) * _SECONDS[match[2]]


def show(rows: list[dict[str, Any]], form: str) -> None:
    """Print rows."""
    if form == "json":
        click.echo(json.encode(rows).decode())
    elif form == "csv":
        sys.stdout.write(lines(rows))
    elif rows:
        table = [list(rows[0]), *([text_of(value) for value in row.values()] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for line in table:
            click.echo("  ".join(map(str.ljust, line, widths)).rstrip())
    else:
        click.echo("nothing")


#: How rows are printed, for every command that prints some.
as_rows = click.option("--as", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)


@click.group("keys")
def _keys() -> None:
    """The keys in the database; those of API_KEYS and of the configuration file count beside them."""


def _key_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what may be said of a key when it is made, and changed later."""
    for option in (
        click.option("--note", help="For people."),
        click.option("--tag", "tags", multiple=True, help="For lists; may be given several times."),
        click.option("--network", "networks", multiple=True, help="Where it may be used from, such as 10.0.0.0/8."),
        click.option(
            "--model", "models", multiple=True, help="Which models it may use, such as gpt-5-mini or openai/*."
        ),
        click.option("--concurrent", help="Requests at a time; 0 is any number."),
        click.option("--tpm", help="Tokens per minute; 0 is any number."),
        click.option("--rpm", help="Requests per minute; 0 is any number, and without it as configured for all keys."),
        click.option("--expires", help="When it ends: in a time such as 30d, or never."),
        click.option("--owner", help="A person, or a program."),
        click.option("--team", help="A team that is there."),
    ):
        command = option(command)
    return command


def _fields(expires: str | None, **given: Any) -> dict[str, Any]:
    """Return what was said of a key or team; ``-`` takes back what was said before."""
    fields = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if value}
    fields = {name: None if value in ("-", ["-"]) else value for name, value in fields.items()}
    fields |= {name: _number(name, str(fields[name])) for name in _NUMBERS if fields.get(name) is not None}
    if expires is not None:
        fields["expires_at"] = None if expires == "never" else int((time.time() + seconds(expires)) * 1000)
    return fields


def _number(name: str, text: str) -> int:
    if re.fullmatch(r"[0-9]{1,18}", text) is None:
        raise ValueError(f"--{name}: {text!r} is no whole number")
    return int(text)


@_keys.command("create")
@click.argument("name")
@click.option("--admin", "role", flag_value="admin", help="For /admin instead of /v1.")
@click.option("--viewer", "role", flag_value="viewer", help="For reading below /admin instead of /v1.")
@click.option("--budget", "budgets", multiple=True, help="What it may spend in US dollars, such as 50/month or 2/day.")
@_key_options
def _create(name: str, role: str | None, expires: str | None, budgets: tuple[str, ...], **given: Any) -> None:
    """Make a key named NAME and print it, once. Danger: it is a secret, and kept nowhere."""
    with administration() as opened:
        limits = {period: limit for limit, _, period in (each.partition("/") for each in budgets)}
        if len(limits) < len(budgets):
            raise ValueError("--budget: there is one for each period")
        text, _ = opened.create_key(name, _fields(expires, role=role, **given), budgets=limits)
        click.echo(text)


@_keys.command("import")
@click.argument("name", required=False)
@click.option("--table", type=click.File(encoding="utf-8-sig"), help="Many keys: a file of CSV, or - for the input.")
@_key_options
def _import_key(name: str | None, table: TextIO | None, expires: str | None, **given: Any) -> None:
    """Take over a key that was made elsewhere, so that its owner needs no new one; it is read from standard input.

    Or many at once, all of them or none: the first line of the TABLE names its columns, `name`, `key`, and any of
    `budget` (such as 50/month) and the fields of a key. For what is left empty the options count.
    """
    if (name is None) == (table is None):
        raise click.UsageError("give the NAME of one key, or the --table of many")
    with administration() as opened:
        fields = _fields(expires, **given)
        if name is not None:
            opened.create_key(name, fields, sys.stdin.readline().strip())
        made = name if table is None else f"{opened.import_keys(table, fields)} keys"
        click.echo(f"{made} may be used")


@_keys.command("list")
@click.option("--tag", help="Only those with this tag.")
@click.option("--team", help="Only those of this team.")
@as_rows
def _list_keys(tag: str | None, team: str | None, form: str) -> None:
    """Print what is kept of all keys."""
    with administration() as opened:
        show([_with_times(each) for each in opened.keys(tag, team)], form)


@_keys.command("show")
@click.argument("name")
def _show_key(name: str) -> None:
    """Print what is kept of a key."""
    with administration() as opened:
        for field, value in _with_times(opened.key(name)).items():
            click.echo(f"{field}: {text_of(value)}")


@_keys.command("update")
@click.argument("name")
@_key_options
def _update_key(name: str, expires: str | None, **given: Any) -> None:
    """Change what a key may do. A value of ``-`` takes back what was said before."""
    with administration() as opened:
        opened.update_key(name, _fields(expires, **given))
        click.echo(f"{name} was changed")


@_keys.command("rotate")
@click.argument("name")
@click.option("--grace", default="1d", show_default=True, help="How long the old one still counts, such as 12h; or 0m.")
def _rotate(name: str, grace: str) -> None:
    """Give the key NAME another text and print it, once."""
    with administration() as opened:
        click.echo(opened.rotate_key(name, seconds(grace)))


@_keys.command("revoke")
@click.argument("name")
def _revoke(name: str) -> None:
    """End a key for ever: a running gateway refuses it within a second."""
    with administration() as opened:
        opened.revoke_key(name)
        click.echo(f"{name} was revoked")


def _with_times(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose moments people can read."""
    return {
        name: datetime.fromtimestamp(value / 1000, UTC).isoformat(timespec="seconds")
        if value is not None and name.endswith(("_at", "_until"))
        else value
        for name, value in row.items()
    }


@click.group("teams")
def _teams() -> None:
    """Groups of keys."""


@_teams.command("list")
@as_rows
def _list_teams(form: str) -> None:
    """Print all teams."""
    with administration() as opened:
        show([_with_times(each) for each in opened.teams()], form)


@_teams.command("create")
@click.argument("name")
@click.option("--model", "models", multiple=True, help="Which models its keys may use, such as gpt-5-mini or openai/*.")
@click.option("--note", help="For people.")
def _create_team(name: str, **given: Any) -> None:
    """Make a team."""
    with administration() as opened:
        opened.create_team(name, _fields(None, **given))
        click.echo(f"{name} was made")


@_teams.command("update")
@click.argument("name")
@click.option("--model", "models", multiple=True, help="Which models its keys may use, such as gpt-5-mini or openai/*.")
@click.option("--note", help="For people.")
@click.option("--disable/--enable", "disabled", default=None, help="Shut out all its keys, or let them in again.")
def _update_team(name: str, disabled: bool | None, **given: Any) -> None:
    """Change a team. A value of ``-`` takes back what was said before."""
    with administration() as opened:
        opened.update_team(name, _fields(None, **given), disabled=disabled)
        click.echo(f"{name} was changed")


@click.group("budgets")
def _budgets() -> None:
    """What keys, teams and all keys together may spend.

    NAME is key:NAME:PERIOD, team:NAME:PERIOD or all:PERIOD; PERIOD is day, week, month or total.
    """


@_budgets.command("list")
@as_rows
def _list_budgets(form: str) -> None:
    """Print all budgets, with what is spent of them now."""
    with administration() as opened:
        show(opened.budgets(), form)


@_budgets.command("set")
@click.argument("name")
@click.argument("limit")
@click.option("--zone", help="The time zone in which days begin, such as Asia/Shanghai; by default UTC.")
@click.option("--alert", help="At so many percent a line is logged; by default 80, and 0 is never.")
def _set_budget(name: str, limit: str, zone: str | None, alert: str | None) -> None:
    """Make or change the budget NAME: at most LIMIT US dollars. What was spent stays spent."""
    with administration() as opened:
        given: dict[str, Any] = {"limit_usd": limit, "zone": zone}
        given["alert_percent"] = None if alert is None else _number("alert", alert)
        opened.set_budget(name, {field: value for field, value in given.items() if value is not None})
        click.echo(f"{name} is {limit} USD")


@_budgets.command("credit")
@click.argument("name")
@click.argument("usd")
@click.option("--note", help="Why, for the audit.")
def _credit(name: str, usd: str, note: str | None) -> None:
    """Take USD dollars off what is spent of the budget NAME now."""
    with administration() as opened:
        opened.credit_budget(name, usd, note)
        click.echo(f"{usd} USD were credited to {name}")


@_budgets.command("remove")
@click.argument("name")
def _remove_budget(name: str) -> None:
    """End the budget NAME. Danger: nothing limits what it limited."""
    with administration() as opened:
        opened.remove_budget(name)
        click.echo(f"{name} was removed")


@click.command("usage")
@click.option(
    "--by", default="key,model", show_default=True, help="Of key, model, deployment, team, owner, minute, hour, day."
)
@click.option("--since", default="30d", show_default=True, help="From so long ago on, such as 7d or 12h.")
@click.option("--zone", default="UTC", show_default=True, help="The time zone of days and hours.")
@click.option("--key", help="Only of this key, by its name.")
@as_rows
def _usage(by: str, since: str, zone: str, key: str | None, form: str) -> None:
    """Print what was used: requests, tokens and costs, with a line of totals."""
    names = [name.strip() for name in by.split(",") if name.strip()]
    with administration() as opened:
        rows = opened.usage(names, seconds(since), zone, key)
    if form == "table" and names and rows:
        rows[-1][names[0]] = "total"
    show(rows, form)


@click.group("prices")
def _prices() -> None:
    """What models cost."""


@_prices.command("show")
@click.argument("model")
def _show(model: str) -> None:
    """Print the prices of MODEL in US dollars, per million tokens and for one of each other unit, and their source.

    MODEL is adapter/model, or the name of a group or of a model that clients use.
    """
    with administration() as opened:
        prices = opened.prices()
        for deployment in _deployments(model):
            price = prices.price(deployment)
            if price is None:
                click.echo(f"{deployment}: unknown. Set prices.models in the configuration")
                continue
            click.echo(f"{deployment}: {json.encode(price.rates.as_dict()).decode()} ({price.source})")


def _deployments(model: str) -> list[str]:
    """Return the deployments that a name leads to, as far as the configuration shows."""
    config = load().config
    if (group := config.model_groups.get(model)) is not None:
        return [target.model for target in targets(group.targets + group.fallbacks)]
    if model.partition("/")[0] in config.adapters:
        return [model]
    return [f"{name}/{model}" for name in config.adapters]


@_prices.command("import")
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def _import(path: Path) -> None:
    """Use the catalogue in the file PATH, one that `make prices` has made, where it is newer than the shipped one."""
    with administration() as opened:
        click.echo(f"the catalogue of {opened.import_catalogue(path)} counts from the next start on, if it is newer")


@click.group("db")
def _db() -> None:
    """The database of keys and of the ledger."""


@_db.command("upgrade")
def _upgrade() -> None:
    """Bring the tables up to date, for gateways with `database.migrate: false`."""
    with administration() as opened:
        opened.upgrade()
        click.echo("the tables are up to date")


@_db.command("check")
def _check() -> None:
    """Compare what is spent of each budget, and usage, with the rows of the ledger; fails where they differ."""
    with administration() as opened:
        wrong = [each for each in (opened.wrong_windows(), opened.wrong_sums()) if each]
        for each in wrong:
            show(each, "table")
        if wrong:
            raise click.ClickException("these are not the sums of the rows: please report this")
        click.echo("what is spent of each budget, and usage by key and hour, are the sums of their rows")


@_db.command("copy")
@click.argument("source")
def _copy(source: str) -> None:
    """Copy all of the database SOURCE into the configured one, which must be empty.

    SOURCE is sqlite, sqlite:///PATH or another address; no gateway may use it any more. Keys, teams, budgets, the
    ledger with its sums, the audit and kept responses are copied, and the sums of both compared: all of it, or nothing.
    """
    with administration() as opened:
        for name, count in opened.copy_from(source).items():
            click.echo(f"{name}: {count}")
        click.echo("all of it was copied, and the sums are equal")


@_db.command("export")
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
def _export(target: Path) -> None:
    """Copy SQLite's database to the new file TARGET, while the gateway runs: a backup."""
    with administration() as opened:
        opened.export(target)
        click.echo(f"{target} holds a copy of the database. Danger: it is as confidential as the database itself.")


#: The commands of this module.
ACCOUNT_COMMANDS = (_keys, _teams, _budgets, _usage, _prices, _db)
