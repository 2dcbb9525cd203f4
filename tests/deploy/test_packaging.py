"""What is released: it can be built again, it says what is in it, and it brings nothing that runs unasked."""

import json
import re
import subprocess
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_install import locked

from .tools import ROOT, tool

RUNTIME_LOCKS = ["requirements.txt", "requirements-postgres.txt"]
#: Licences that ask for no more than their own text; what a package says of itself, word for word or as SPDX has it.
ALLOWED = re.compile(
    r"MIT|MIT License|The MIT License|MIT-0|Apache-2\.0|Apache Software License|Apache License,? (Version )?2\.0|"
    r"BSD-[23]-Clause|BSD License|BSD|PSF-2\.0|Python-2\.0|Python Software Foundation License|ISC|0BSD|Zlib"
)
#: Libraries that may be used as they are, without a change; nothing of them is in our code.
WEAK_COPYLEFT = {
    "psycopg": "LGPL-3.0-only",
    "psycopg-binary": "LGPL-3.0-only",
    "certifi": "Mozilla Public License 2.0 (MPL 2.0)",
}
PYTHON = "3.13.0"


def installed(lock: str) -> list[metadata.Distribution]:
    """The packages of a lock that are installed here; a test without most of them would say nothing."""
    found, names = [], locked(lock, PYTHON)
    for name in sorted(names):
        try:
            found.append(metadata.distribution(name))
        except metadata.PackageNotFoundError:
            continue
    assert len(found) > 0.9 * len(names)
    return found


def licences(package: metadata.Distribution) -> list[str]:
    """What a package says that its licence is: each part of an SPDX expression, else its classifiers, else its text."""
    told = package.metadata
    if expression := told["License-Expression"]:
        return [part.strip("() ") for part in re.split(r" (?:AND|OR|WITH) ", expression)]
    classified = [
        each.rpartition(" :: ")[2] for each in told.get_all("Classifier", []) if each.startswith("License ::")
    ]
    return classified or [str(told["License"] or "none").splitlines()[0]]


@pytest.mark.parametrize("lock", RUNTIME_LOCKS)
def test_every_licence_is_one_that_may_be_used(lock: str) -> None:
    others = {
        package.name: found
        for package in installed(lock)
        for found in licences(package)
        if not ALLOWED.fullmatch(found) and WEAK_COPYLEFT.get(canonicalize_name(package.name)) != found
    }

    assert others == {}


@pytest.mark.parametrize("lock", RUNTIME_LOCKS)
def test_nothing_that_is_installed_runs_at_each_start_of_python(lock: str) -> None:
    paths = [str(path) for package in installed(lock) for path in package.files or () if path.suffix == ".pth"]

    assert paths == []


def test_the_engine_is_in_its_own_extra_alone() -> None:
    assert "xllamacpp" in locked("requirements.txt", PYTHON)
    assert "xllamacpp" not in locked("requirements-postgres.txt", PYTHON)


def test_the_locks_have_the_engine_where_it_has_a_wheel() -> None:
    (extra,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["local"]
    engine = Requirement(extra)
    for lock in ("requirements.txt", "requirements-dev.txt"):
        found = re.findall(r"^(xllamacpp==.*?) *\\$", (ROOT / lock).read_text(), re.MULTILINE)
        assert [str(Requirement(each).marker) for each in found] == [str(engine.marker)]
        assert str(Requirement(found[0]).specifier).removeprefix("==") in engine.specifier


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make dist` makes; it fails where two builds differ."""
    tool("pyproject-build")
    folder: Path = tmp_path_factory.mktemp("dist") / "out"
    command = [ROOT / ".ci/dist", Path(tool("cyclonedx-py")).parent, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_release_has_its_parts(released: Path) -> None:
    assert {path.name.replace("0.1.0", "V") for path in released.iterdir()} == {
        "one_api_gateway-V-py3-none-any.whl",
        "one_api_gateway-V.tar.gz",
        "sbom.cdx.json",
        "SHA256SUMS",
    }


def test_the_wheel_has_the_whole_package_and_nothing_else(released: Path) -> None:
    (wheel,) = released.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files", "one_api"], cwd=ROOT, capture_output=True, text=True, check=True)

    assert names == set(tracked.stdout.split())


def test_the_bill_of_materials_is_the_lock(released: Path) -> None:
    bill = json.loads((released / "sbom.cdx.json").read_text())
    components = {canonicalize_name(each["name"]): each for each in bill["components"]}
    text = (ROOT / "requirements-postgres.txt").read_text()
    pinned = dict(re.findall(r"^([A-Za-z0-9][^=\s\[]*)(?:\[[^]]*\])?==([^\s;\\]+)", text, re.MULTILINE))

    assert {name: each["version"] for name, each in components.items()} == {
        canonicalize_name(name): version for name, version in pinned.items()
    }
    assert [name for name, each in components.items() if not each.get("externalReferences")] == []
