"""The files in ``deploy``, judged by the programs that read them."""

import re
from pathlib import Path

import pytest
import yaml

from one_api.config import Config

from .tools import DEPLOY, ROOT, run

#: The oldest Kubernetes that the manifests are for: since then `preStop: {sleep}` is stable.
KUBERNETES = "1.34"
MANIFESTS = sorted(path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")


def test_the_dockerfile_is_clean() -> None:
    done = run("hadolint", "--failure-threshold", "style", DEPLOY / "Dockerfile")

    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_gets_what_the_dockerfile_copies() -> None:
    shown = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}

    assert names == shown
    assert [name for name in names if not list(ROOT.glob(name))] == []


def test_compose_follows_its_schema() -> None:
    done = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose/compose.yaml")

    assert done.returncode == 0, done.stdout


def test_the_manifests_follow_their_schemas() -> None:
    done = run("kubernetes-validate", "--strict", "-k", KUBERNETES, *MANIFESTS)

    assert done.returncode == 0, done.stdout
    assert done.stdout.count(" passed ") == len(MANIFESTS)
    assert "WARN" not in done.stdout  # a kind that it does not know


def test_a_misspelt_field_of_a_manifest_is_found(tmp_path: Path) -> None:
    text = (DEPLOY / "kubernetes/deployment.yaml").read_text()
    wrong = tmp_path / "deployment.yaml"
    wrong.write_text(text.replace("readOnlyRootFilesystem", "readonlyRootFilesystem"))

    assert wrong.read_text() != text
    assert run("kubernetes-validate", "--strict", "-k", KUBERNETES, wrong).returncode != 0


def test_kustomize_has_every_manifest_but_the_secret() -> None:
    listed = yaml.safe_load((DEPLOY / "kubernetes/kustomization.yaml").read_text())["resources"]

    assert sorted(listed) == [path.name for path in MANIFESTS if path.name != "secret.example.yaml"]


def test_a_pod_is_given_longer_than_its_streams() -> None:
    pod = yaml.safe_load((DEPLOY / "kubernetes/deployment.yaml").read_text())["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    drain_s = next(int(each["value"]) for each in container["env"] if each["name"] == "DRAIN_SECONDS")

    assert pod["terminationGracePeriodSeconds"] > container["lifecycle"]["preStop"]["sleep"]["seconds"] + drain_s


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_the_configuration_can_be_used(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DEPLOY / where / "config.yaml").read_text()
    given = yaml.safe_load((DEPLOY / "kubernetes/secret.example.yaml").read_text())["stringData"]
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_load(text)["data"]["config.yaml"] if where == "kubernetes" else text)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ONE_API_CONFIG", str(file))
    monkeypatch.setenv("ONE_API_ENV_FILE", "/dev/null")

    assert Config.load().rate_limit.storage == given["REDIS_URL"]


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with a program in the place of the gateway, which is not installed here."""
    text = (DEPLOY / "systemd/one-api@.service").read_text()
    file = tmp_path / "one-api@8001.service"
    file.write_text(text.replace("/opt/one-api/bin/gunicorn", "/bin/true"))
    return file


def test_the_unit_is_understood(unit: Path) -> None:
    done = run("systemd-analyze", "verify", "--man=no", unit)

    # Its status is 0 also where it does not know a setting.
    assert (done.returncode, done.stdout) == (0, "")


def test_an_unknown_setting_of_the_unit_is_found(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("ProtectHome", "ProtectHomes"))

    assert "ProtectHomes" in run("systemd-analyze", "verify", "--man=no", unit).stdout


def test_the_unit_is_exposed_to_little(unit: Path) -> None:
    done = run("systemd-analyze", "security", "--offline=true", "--threshold=20", unit)

    assert done.returncode == 0, done.stdout


def test_what_is_the_same_in_several_files_is_the_same() -> None:
    version = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0]
    images = [
        yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())["services"]["gateway"]["image"],
        yaml.safe_load((DEPLOY / "kubernetes/deployment.yaml").read_text())["spec"]["template"]["spec"]["containers"][
            0
        ]["image"],
    ]

    assert {image.rpartition(":")[2] for image in images} == {version}
