"""The rules that keep the parts apart, and the ones that keep the documents true: read from the source itself."""

import ast
import logging
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from one_api import errors
from one_api.api import cors
from one_api.app import create_app
from one_api.config import Config
from one_api.settings import adapters, observing, prices, sections, variables

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "one_api"

#: The ladder of rooms, from the top. A room is a folder, or a module that stands for itself; it imports from the rows
#: below its own only. A module belongs to the longest name here that it begins with.
LADDER: list[list[str]] = [
    ["__main__"],
    ["wsgi", "quickstart", "serving.gunicorn_conf"],
    ["app", "install", "alive", "serving.worker"],
    ["commands"],
    ["doctor"],
    ["admin"],
    ["api"],
    ["utils"],
    ["models.registry"],
    ["cache"],
    ["routing"],
    ["models.adapters"],
    ["engine"],
    ["upstream", "limits", "accounts"],
    ["serving", "observability"],
    ["config"],
    ["settings", "dialects", "redis"],
    ["records"],
    ["contract", "outcomes", "bounded", "breaker"],
    ["errors", "models", ""],
]
ROW = {room: row for row, rooms in enumerate(LADDER) for room in rooms}

#: Library -> the rooms and modules that may import it.
GATES: dict[str, list[str]] = {
    "flask": ["app", "commands", "__main__", "admin", "api", "utils", "serving"],
    "flask_cors": ["api.cors"],
    "flask_limiter": ["utils", "api.error_handlers"],
    "limits": ["limits"],
    "redis": ["redis"],
    "sqlalchemy": ["accounts"],
    "alembic": ["accounts"],
    "psycopg": [],
    "opentelemetry": ["observability.tracing"],
    "genai_prices": [],
    "werkzeug": ["app", "admin", "api", "utils", "serving", "commands.flask_run"],
    "click": ["commands", "__main__"],
    "aiohttp": ["upstream"],
    "python_socks": ["upstream.socks"],
    "greenlet": ["serving"],
    "uvicorn": ["serving"],
    "uvicorn_worker": ["serving"],
    "gunicorn": ["serving"],
    "uvloop": ["serving"],
    "httptools": ["serving"],
    "xllamacpp": ["engine.program"],
    # Records that are made for each request are structs of it, which takes an eighth of the time of frozen dataclasses.
    "msgspec": [
        "accounts.journal",
        "dialects.json",
        "dialects.sse",
        "config",
        "settings",
        "commands.cli",
        "observability",
        "contract",
        "records",
        "limits.window",
        "routing",
        "cache.answers",
        "cache.entry",
        "cache.keys",
        "models.adapters.base",
        "dialects.openai.chat_request",
        "dialects.openai.response",
    ],
    "yaml": ["settings.files", "api.openapi"],
    "dotenv": ["settings.files"],
    # JSON goes through dialects.json, which reads with it what its own decoder refuses. The engine is a program of its
    # own that imports nothing of ours.
    "json": ["engine.program", "dialects.json"],
    "orjson": [],
    "simplejson": [],
    "requests": ["doctor", "commands.conversation", "observability.tracing"],
    "urllib3": [],
    "httpx": [],
}
#: Imports that stand inside a function, each with its reason.
LATE_IMPORTS = {
    ("__main__", "one_api.app"): "a command that needs no application imports none",
    ("cache.answers", "one_api.cache.redis"): "a gateway without Redis imports nothing of its client",
    ("limits.storage", "one_api.limits.redis"): "a gateway without Redis imports nothing of its client",
    ("commands.cli", "one_api.commands.conversation"): "a gateway that serves imports nothing of requests",
    ("app", "one_api.accounts.prices"): "a gateway without a database reads no catalogue",
    ("app", "one_api.accounts.service"): "a gateway without a database imports nothing of SQLAlchemy",
    ("app", "one_api.admin.accounts"): "a gateway without a database imports nothing of SQLAlchemy",
    ("app", "one_api.api.account"): "a gateway without a database imports nothing of SQLAlchemy",
    ("serving.gunicorn_conf", "one_api.accounts.opening"): "a gateway without a database imports nothing of SQLAlchemy",
    ("accounts.opening", "one_api.accounts.migrate"): "where the tables are up to date Alembic is not needed",
    ("app", "one_api.observability.tracing"): "a gateway without traces imports nothing of OpenTelemetry",
    (
        "commands.accounts",
        "one_api.accounts.administration",
    ): "a gateway without a database imports nothing of SQLAlchemy",
    ("commands.cli", "one_api.doctor.asking"): "a gateway that serves imports nothing of requests",
    ("commands.cli", "one_api.doctor.checks"): "a gateway that serves imports nothing of requests",
    ("commands.cli", "one_api.doctor.finding"): "a gateway that serves imports nothing of requests",
    ("doctor.machine", "one_api.redis.probe"): "an examination without Redis imports nothing of its client",
    ("doctor.machine", "one_api.accounts.probe"): "an examination without a database imports nothing of SQLAlchemy",
    ("upstream.client", "one_api.upstream.socks"): "a gateway without a SOCKS proxy imports nothing of its client",
    ("commands.cli", "one_api.engine.inventory"): "a gateway without local models imports nothing of the engine",
    (
        "engine.program",
        "xllamacpp",
    ): "loaded after the fork, so that a fault in it has a process of its own",
}
#: Of a module.
MAX_LINES = 400


def name_of(path: Path) -> str:
    """The module's name below ``one_api``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


SOURCES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}


def imports_of(module: str, *, late: bool | None = None) -> list[str]:
    """The full names that a module imports, wherever; ``late`` picks those inside functions, or those outside."""
    return [full for full, is_late in all_imports(module) if late in (None, is_late)]


@cache
def all_imports(module: str) -> list[tuple[str, bool]]:
    """The full names that a module imports, and whether inside a function."""
    found = []
    for node, is_late in _statements(TREES[module]):
        if isinstance(node, ast.Import):
            found += [(alias.name, is_late) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: write imports in full"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.append((full if ours(full) in SOURCES else str(node.module), is_late))
    return found


def _statements(node: ast.AST, *, is_late: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """All statements in one, and whether each is inside a function."""
    is_late = is_late or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    for part in ("body", "handlers", "orelse", "finalbody", "cases"):
        for child in getattr(node, part, ()):
            yield child, is_late
            yield from _statements(child, is_late=is_late)


def ours(full: str) -> str | None:
    """The name below ``one_api`` of an imported module of ours, or None."""
    package, _, rest = full.partition(".")
    return rest if package == "one_api" else None


def within(module: str, places: list[str]) -> bool:
    """Whether a module is one of these, or in one of these rooms."""
    return any(module == place or module.startswith(place + ".") for place in places)


# The ladder


def room_of(module: str) -> str:
    """The room that a module is in."""
    return max((room for room in ROW if within(module, [room]) or room == module), key=len, default="nowhere")


def test_every_module_is_in_a_room_of_the_ladder() -> None:
    assert [module for module in SOURCES if room_of(module) not in ROW] == []


def test_every_room_has_modules() -> None:
    assert set(ROW) - {room_of(module) for module in SOURCES} == set()


def test_a_room_imports_from_rooms_below_it_only() -> None:
    upward = [
        f"{module} imports {target}"
        for module in SOURCES
        for full in imports_of(module)
        if (target := ours(full)) is not None
        and room_of(target) != room_of(module)
        and ROW[room_of(target)] <= ROW[room_of(module)]
    ]

    assert upward == []


def test_no_modules_import_each_other() -> None:
    graph = {module: {target for full in imports_of(module) if (target := ours(full))} for module in SOURCES}

    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_imports_stand_at_the_top() -> None:
    late = {(module, full) for module in SOURCES for full in imports_of(module, late=True)}

    assert late - set(LATE_IMPORTS) == set()


def test_the_engine_imports_nothing_of_ours() -> None:
    assert [full for full in imports_of("engine.program") if ours(full) is not None] == []


def test_the_exceptions_are_still_needed() -> None:
    for module, full in LATE_IMPORTS:
        assert full in imports_of(module, late=True)


# Gates


def test_a_library_is_imported_by_its_gate_only() -> None:
    past_the_gate = [
        f"{module} imports {full}"
        for module in SOURCES
        for full in imports_of(module)
        if (places := GATES.get(full.partition(".")[0])) is not None and not within(module, places)
    ]

    assert past_the_gate == []


#: The packages that the project was asked to stand on, and the room in which each does its work.
NAMED = {
    "flask": "app",
    "flask_cors": "api",
    "flask_limiter": "utils",
    "limits": "limits",
    "dotenv": "settings",
    "aiohttp": "upstream",
    "requests": "doctor",
}


@pytest.mark.parametrize("package", NAMED)
def test_a_package_that_was_asked_for_does_its_work(package: str) -> None:
    importing = {module for module in SOURCES for full in imports_of(module) if full.partition(".")[0] == package}

    assert [module for module in importing if within(module, [NAMED[package]])]


def test_only_the_configuration_reads_the_environment() -> None:
    names = {"environ", "environb", "getenv", "getenvb", "putenv"}
    readers = {
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in names and ast.unparse(node.value) == "os")
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and names & {alias.name for alias in node.names})
    }

    assert readers == {"config"}


#: Where a ContextVar is, with its reason: data goes down as an argument, and comes back as a return value.
WITH_CONTEXT = {"upstream.connections": "aiohttp's connector has no other way to its caller"}


def test_no_data_travels_beside_the_arguments() -> None:
    users = {
        module
        for module in SOURCES
        for full in imports_of(module)
        if full == "contextvars" and "ContextVar" in SOURCES[module].read_text(encoding="utf-8")
    }

    assert users == set(WITH_CONTEXT)


#: How code says which configuration a request began with.
OF_THE_REQUEST = {"g.snapshot", "known.snapshot", "call.snapshot"}
#: Who reads the one that is in use now, or the listening side's part of it.
IN_USE = {
    ("api.request_log", "parts.snapshot"): "a request takes it when it begins",
    ("api.request_log", "self.snapshot"): "that is the request's own",
    ("api.service", "self.snapshot"): "it is kept there",
    ("api.service", "self.reload.snapshot"): "it is kept there",
    ("api.reload", "self.snapshot"): "it is replaced there",
    ("admin.routes", "parts.snapshot"): "another process asks, there is no request",
    ("api.metrics", "parts.snapshot"): "a scrape shows what is in use",
    ("app", "parts.snapshot"): "what requests took is booked after their end, by the prices of that time",
    ("serving.asgi", "self._service.server"): "connections are no requests",
    ("serving.asgi", "service.server"): "the time that a body may take counts from before the request begins",
}


def test_a_request_reads_the_configuration_that_it_began_with_and_no_other() -> None:
    read = {
        (module, ast.unparse(node))
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and (node.attr == "snapshot" or (node.attr in ("server", "registry") and "service" in ast.unparse(node.value)))
    }
    assert {(module, text) for module, text in read if text not in OF_THE_REQUEST} == set(IN_USE)


# Text


def test_everything_public_has_a_docstring() -> None:
    missing = [
        name
        for module, tree in TREES.items()
        for name, node in _public(module, tree)
        if not (ast.get_docstring(node) or "").strip()
    ]

    assert missing == []


Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _public(name: str, node: Documented) -> Iterator[tuple[str, Documented]]:
    """A module or class and what is public in it."""
    yield name, node
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not child.name.startswith("_"):
            if any(ast.unparse(each) == "overload" for each in child.decorator_list):
                continue  # its implementation has the docstring
            full = f"{name}.{child.name}"
            yield from _public(full, child) if isinstance(child, ast.ClassDef) else [(full, child)]


def test_a_module_is_no_longer_than_it_may_be() -> None:
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in SOURCES.items()}

    assert [module for module in SOURCES if lines[module] > MAX_LINES] == []


#: The most lines of a function, without its docstring.
MAX_FUNCTION_LINES = 45


def test_a_function_fits_a_screen() -> None:
    long = [
        f"{module}.{node.name}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and _lines_of_body(node) > MAX_FUNCTION_LINES
    ]

    assert long == []


def _lines_of_body(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


# Tests


#: Names with an underscore that are part of what their owners offer.
OFFERED = {"_asdict", "_fields", "_replace", "_exit", "_request_id"}


#: What is private to somebody: an attribute, what is imported, what is patched or asked for by its name.
PRIVATE = re.compile(
    r"""\.(?P<attribute>_[a-zA-Z]\w*)"""
    r"""|\bimport\b[^\n]*[ ,](?P<imported>_[a-zA-Z]\w*)|^    (?P<listed>_[a-zA-Z]\w*),$"""
    r"""|attr\([^\n]*"(?P<patched>_[a-zA-Z]\w*)\"""",
    re.MULTILINE,
)


def test_tests_use_what_is_public() -> None:
    """They reach for no attribute and no name with an underscore, except for what the tests define themselves."""
    texts = {
        path: path.read_text(encoding="utf-8")
        for path in ROOT.glob("tests/**/*.py")
        if path.name != "test_architecture.py"
    }
    defined = re.compile(r"\bdef (_\w+)|^    (_\w+)(?:: .*)? = |\bself\.(_\w+)(?=: |[^()\n]* = |:$)", re.MULTILINE)
    own = {name for text in texts.values() for found in defined.findall(text) for name in found if name}
    reached = {
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path, text in texts.items()
        for found in PRIVATE.finditer(text)
        if not (text.endswith(("self", "cls"), 0, found.start()) and found["attribute"] in own)
        and next(filter(None, found.group("attribute", "imported", "listed", "patched"))) not in OFFERED
    }

    assert reached == set()


# What is documented


@pytest.fixture(scope="module")
def documents() -> str:
    """What people read: the README and the pages of ``docs/``."""
    return "\n".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))])


def variables_read() -> set[str]:
    """The environment variables that the configuration knows."""
    return set(variables.KNOWN)


def variables_shown() -> dict[str, str]:
    """The variables in ``.env.example``, each with the paragraph that it stands in, down to it."""
    shown = {}
    for paragraph in (ROOT / ".env.example").read_text(encoding="utf-8").split("\n\n"):
        for match in re.finditer(r"^#?([A-Z][A-Z_]+)=", paragraph, re.MULTILINE):
            shown[match[1]] = paragraph[: match.start()]
    return shown


def test_every_variable_is_explained_in_the_example() -> None:
    shown = variables_shown()

    assert set(shown) == variables_read()
    for name, before in shown.items():
        assert re.search(r"^# .*\w", before, re.MULTILINE), f"{name} has no explanation above it"


def test_every_setting_of_the_file_is_documented() -> None:
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    values = {**vars(adapters), **vars(observing), **vars(prices), **vars(sections)}.values()
    known = [kind for kind in values if isinstance(kind, type) and issubclass(kind, Struct)]
    names = set(Config.__struct_fields__).union(*(kind.__struct_fields__ for kind in known if kind is not Struct))

    assert sorted(name for name in names if not re.search(rf"\b{name}\b", page)) == []


def test_every_setting_of_a_section_has_its_row() -> None:
    """A name that stands for something else somewhere on the page does not document it."""
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    wanted = [
        (section.name, name)
        for section in msgspec.structs.fields(Config)
        if isinstance(section.type, type) and issubclass(section.type, Struct)
        for name in section.type.__struct_fields__
    ]

    assert len(wanted) > 60
    assert [
        f"{section}.{name}"
        for section, name in wanted
        if not any(f"`{section}." in row and re.search(rf"[`.]{name}`", row) for row in rows)
    ] == []


@pytest.fixture
def routes() -> Iterator[list[str]]:
    """The rules of all routes; the log is left as it was."""
    logger = logging.getLogger("one_api")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield [rule.rule for rule in create_app(Config()).url_map.iter_rules()]
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)


def test_every_route_is_documented(documents: str, routes: list[str]) -> None:
    assert "/v1/chat/completions" in routes
    for rule in routes:
        written = r"[\w{}<>:$]+".join(map(re.escape, re.split(r"<[^>]+>", rule)))
        assert re.search(rf"{written}(?![\w/])", documents), f"{rule} is not documented"


def test_every_header_of_the_gateway_is_documented(documents: str) -> None:
    headers = {
        node.value
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("x-gateway-")
    }

    assert headers
    assert sorted(header for header in headers if f"`{header}`" not in documents) == []


def test_every_header_that_pages_may_read_is_in_the_table() -> None:
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = {name for cell in cells for name in re.findall(r"`([a-z-]+)(?:: \w+)?`", cell)}
    listed = named | {f"x-ratelimit{name}" for name in named if name.startswith("-")}

    assert "x-ratelimit-remaining-tokens" in listed
    assert [name for name in cors.EXPOSED if name not in listed] == []


def test_every_error_code_is_documented() -> None:
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    fixed = {getattr(found, "code", None) for found in vars(errors).values() if isinstance(found, type)}
    codes = fixed | {code for tree in TREES.values() for code in _codes_given(tree)}

    assert sorted(code for code in codes if code and f"`{code}`" not in page) == []


def _codes_given(tree: ast.Module) -> Iterator[str]:
    """The codes that errors are made with; those of a wrong request are OpenAI's own: the page says "by the case"."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func) != "InvalidRequest":
            for keyword in call.keywords:
                if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                    yield str(keyword.value.value)


# The page about the architecture


def architecture() -> list[list[str]]:
    """The rows of the tables in the page: what is in backticks, cell by cell."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[match for cell in row for match in re.findall(r"`([^`]+)`", cell)] for row in rows]


FOLLOWED = [(row[0], name) for row in architecture() if row and row[0].endswith(".py") for name in row[1:]]


@pytest.mark.parametrize(("file", "name"), FOLLOWED)
def test_the_architecture_names_functions_that_exist(file: str, name: str) -> None:
    bodies: list[ast.stmt] = TREES[name_of(PACKAGE / file)].body

    for part in name.split("."):
        found = [node for node in bodies if getattr(node, "name", None) == part]
        assert found, f"{file} has no {name}: mend docs/architecture.md"
        bodies = getattr(found[-1], "body", [])


def test_the_architecture_numbers_the_files_that_a_request_passes() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")

    assert len(FOLLOWED) > 20
    assert [int(number) for number in re.findall(r"^\| (\d+) \| `", text, re.MULTILINE)] == list(range(1, 14))


def test_the_architecture_says_how_much_code_there_is() -> None:
    """Lines that are not blank, a comment, or part of a docstring."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    said = re.search(r"about ([\d,]+) lines of code", text)
    assert said

    counted = sum(map(_lines_of_code, SOURCES))
    assert abs(int(said[1].replace(",", "")) - counted) < counted / 10, f"there are {counted}"


def _lines_of_code(module: str) -> int:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        line
        for node in ast.walk(TREES[module])
        if isinstance(node, documented) and ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    lines = SOURCES[module].read_text(encoding="utf-8").splitlines()
    code = [number for number, line in enumerate(lines, 1) if (text := line.strip()) and not text.startswith("#")]
    return len(set(code) - docstrings)


def test_the_architecture_names_every_room() -> None:
    named = {room for row in architecture() for room in row if not room.endswith(".py")}

    assert {room.partition(".")[0] for room in ROW} - {""} - named == set()


def test_the_table_of_places_names_what_exists() -> None:
    """Each file and folder is there, and each other name stands in one of those of its row."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("## Where things go")[2].partition("\n## ")[0]
    rows = [re.findall(r"`([^`]+)`", line) for line in table.splitlines() if line.startswith("| ")]
    wrong = []
    for row in rows:
        places = [place for name in row if (place := _place(name)) is not None]
        wrong += [name for name in row if re.search(r"/|\.(py|ya?ml|md|json)$", name) and _place(name) is None]
        for name in [each for each in row if re.fullmatch(r"[A-Za-z_.]+(\(.*\))?", each) and _place(each) is None]:
            word = re.compile(rf"\b{name.partition('(')[0].rpartition('.')[2]}\b")
            if not any(word.search(file.read_text(encoding="utf-8")) for file in places if file.is_file()):
                wrong.append(name)

    assert len(rows) > 20
    assert wrong == []


def _place(name: str) -> Path | None:
    """The file or folder that is meant, of the package or of the repository."""
    return next((path for root in (PACKAGE, ROOT) if (path := root / name).exists()), None)


def test_documents_link_to_files_that_exist() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    broken = [
        f"{page.name}: {link}"
        for page in pages
        for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]

    assert broken == []
