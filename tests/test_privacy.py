"""The whole road in a process that must not open a socket, with secrets in its surroundings that nobody may find."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.faults.harness import TINY

from vademecum.config import load_config
from vademecum.errors import ConfigError, SourceError, masked
from vademecum.sources import fetch_corpus

SECRET = "zyxwvSECRETzyxwv"
SURROUNDINGS = {
    "HF_TOKEN": f"hf_{SECRET}{'0' * 20}",
    "HUGGING_FACE_HUB_TOKEN": f"hf_{SECRET}{'1' * 20}",
    "WANDB_API_KEY": SECRET,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "PIP_INDEX_URL": f"https://someone:{SECRET}@index.example/simple",
    "https_proxy": f"http://someone:{SECRET}@proxy.example:3128",
    "HF_ENDPOINT": f"https://someone:{SECRET}@hub.example",
}
GUARD = """
import os, sys, traceback

def guard(event, arguments):
    if event.startswith("socket.") or event == "subprocess.Popen" and "pip" in map(str, arguments[1] or ()):
        sys.stderr.write(f"FORBIDDEN {event} {arguments}\\n")
        traceback.print_stack()
        sys.stderr.flush()
        os._exit(77)

sys.addaudithook(guard)
"""
TRACKER = """
import os, sys

def init(*_, **__):
    sys.stderr.write("FORBIDDEN tracker\\n")
    sys.stderr.flush()
    os._exit(78)

login = start_run = init
run = None
"""


class Walk(NamedTuple):
    """A whole run: how it ended, what it said, and where its files are."""

    code: int
    told: str
    files: Path


@pytest.fixture(scope="module")
def plugged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH: a guard that ends the process at the first socket, and trackers that end it if asked."""
    folder = tmp_path_factory.mktemp("plugged")
    (folder / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    for name in ("wandb", "mlflow", "trackio"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(TRACKER, encoding="utf-8")
        info = folder / f"{name}-9.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.0\n", encoding="utf-8")
    return folder


def walk(arguments: list[str], plugged: Path, scratch: Path) -> Walk:
    quiet = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "WANDB_MODE", "WANDB_DISABLED")
    path = os.pathsep.join([str(plugged), *filter(None, [os.environ.get("PYTHONPATH")])])
    surroundings = {name: value for name, value in os.environ.items() if name not in quiet}
    done = subprocess.run(
        [sys.executable, "-m", "vademecum", *arguments, "--out", str(scratch / "run")],
        capture_output=True,
        text=True,
        check=False,
        env={**surroundings, **SURROUNDINGS, "PYTHONPATH": path, "VADE_CACHE": str(scratch / "cache")},
    )
    return Walk(done.returncode, done.stdout + done.stderr, scratch)


@pytest.fixture(scope="module", params=["--offline", "--quiet"])
def walked(
    request: pytest.FixtureRequest, plugged: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Walk:
    """The whole road on local inputs, with --offline and without."""
    settings = [part for one in (*TINY, f"model.name={tiny_checkpoint}") for part in ("--set", one)]
    scratch = tmp_path_factory.mktemp("walked")
    return walk([request.param, "run", "demo", *settings], plugged, scratch)


def test_no_socket_is_opened_and_no_tracker_asked(walked: Walk) -> None:
    assert "FORBIDDEN" not in walked.told, walked.told
    assert walked.code == 0, walked.told
    assert (walked.files / "run" / "report.html").is_file()


def test_secrets_of_the_surroundings_are_nowhere(walked: Walk) -> None:
    assert SECRET not in walked.told
    files = [file for file in walked.files.rglob("*") if file.is_file()]
    assert len(files) > 20
    assert [file for file in files if SECRET.encode() in file.read_bytes()] == []


@pytest.mark.parametrize("model", ["smollm2-135m", "some/model"])
def test_offline_what_is_not_here_is_refused_without_a_socket(model: str, plugged: Path, tmp_path: Path) -> None:
    found = walk(["--offline", "run", "demo", "--set", f"model.name={model}"], plugged, tmp_path)
    assert found.code == 2, found.told
    assert "not in the cache" in found.told
    assert "FORBIDDEN" not in found.told
    assert SECRET not in found.told


def test_the_guard_would_see_a_socket(plugged: Path, tmp_path: Path) -> None:
    found = walk(["run", "demo", "--set", "model.name=some/model"], plugged, tmp_path)
    assert found.code == 77
    assert "FORBIDDEN socket." in found.told


@pytest.mark.parametrize(
    "setting",
    [
        f"corpus.source=https://someone:{SECRET}@host.example/x.zip#xml-sha256={'0' * 64}",
        f"corpus.source=https://{SECRET}@host.example/x.zip#xml-sha256={'0' * 64}",
        f"corpus.source=https://host.example/get?access_token={SECRET}&f=x.zip#xml-sha256={'0' * 64}",
        f"model.name=https://someone:{SECRET}@host.example/model",
        f"model.revision=hf_{SECRET}{'0' * 20}",
        f"corpus.columns.question=hf_{SECRET}{'0' * 20}",
    ],
)
def test_a_secret_in_the_settings_is_refused_and_not_repeated(setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("demo", [setting])
    assert setting.partition("=")[0] in caught.value.message
    assert SECRET not in f"{caught.value} {caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("setting", [f"hub.token=hf_{SECRET}{'0' * 20}", f"train.learning_rate=hf_{SECRET}{'0' * 20}"])
def test_a_wrong_setting_with_a_secret_is_not_repeated(setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("demo", [setting])
    assert SECRET not in caught.value.message


def test_an_address_with_a_password_is_not_repeated_when_it_fails(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        fetch_corpus(f"https://someone:{SECRET}@host.example/x.zip")
    assert SECRET not in caught.value.message
    assert "host.example/x.zip" in caught.value.message


def test_other_text_is_left_alone() -> None:
    for text in ("a@b.org", "https://host.example/a@b", "x://y?page=2&keyword=z", "key=1", "hf_model", "--set a=b"):
        assert masked(text) == text
