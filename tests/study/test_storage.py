"""A search's storage: any that Optuna takes, no password in a file, and a plain word where it cannot be used."""

import sys
from pathlib import Path

import pytest
from tests.listener import Listener

from vademecum.errors import ConfigError, InputError
from vademecum.study import SearchConfig, Setting, make_executor
from vademecum.study.folder import StudyFolder
from vademecum.study.search import run_search
from vademecum.study.storage import check_storage, open_optuna


def stored_in(storage: str) -> SearchConfig:
    over = ({"setting": "lora.r", "choices": (2, 4)},)
    return SearchConfig.model_validate({"baseline": "demo", "over": over, "storage": storage})


@pytest.mark.parametrize(
    "storage",
    [
        "postgresql://me:s3cret@host/db",
        "postgresql+psycopg2://:s3cret@host",
        "mysql://me:a/s3cret?@host:3306/db",
        "postgresql://host/db?user=me&password=s3cret",
        "postgresql://host/db?sslpassword=s3cret",
    ],
)
def test_a_password_comes_into_no_file(tmp_path: Path, storage: str) -> None:
    with pytest.raises(ConfigError, match="storage holds a password") as caught:
        run_search(stored_in(storage), tmp_path, Setting(make_executor("local"), Listener()))
    assert "VADE_SEARCH_STORAGE" in caught.value.hint
    assert "s3cret" not in f"{caught.value.message} {caught.value.hint}"
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and "s3cret" in file.read_text()]


@pytest.mark.parametrize(
    "storage", ["", "sqlite:////shared/a:b@c.db", "postgresql://me@host:5432/db", "mysql://host/db"]
)
def test_an_address_without_a_password_is_taken(storage: str) -> None:
    check_storage(storage)


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("postgresql+psycopg2://me@host/db", "psycopg2"),
        ("nonsense://host/db", "nonsense"),
        ("optuna.db", "URL"),
        ("sqlite:////no/such/folder/optuna.db", "unable to open database file"),
        ("redis://host", "Redis"),
    ],
    ids=["driver not installed", "no such scheme", "no address", "unreachable", "not Optuna's"],
)
def test_a_storage_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str, words: str
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(InputError, match="the search's storage cannot be used: ") as caught:
        open_optuna(stored_in(storage), StudyFolder(tmp_path))
    assert words in caught.value.message
    assert "\n" not in caught.value.message


def test_a_search_is_found_again_in_its_own_storage_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = (f"sqlite:///{tmp_path / name}" for name in ("first.db", "other.db"))
    folder = StudyFolder(tmp_path / "s")
    monkeypatch.setenv("VADE_SEARCH_STORAGE", first)
    open_optuna(stored_in(""), folder).enqueue_trial({"lora.r": 4})
    assert not (folder.path / "optuna.db").exists()
    monkeypatch.delenv("VADE_SEARCH_STORAGE")
    assert len(open_optuna(stored_in(first), folder).trials) == 1
    for another in (other, ""):
        with pytest.raises(InputError, match="the storage does not know the search"):
            open_optuna(stored_in(another), folder)


def test_what_was_being_trained_when_the_process_was_killed_comes_first_again(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    killed = open_optuna(stored_in(""), folder).ask()
    rank = killed.suggest_categorical("lora.r", (2, 4))
    again = open_optuna(stored_in(""), folder).ask()
    assert again.number != killed.number
    assert again.suggest_categorical("lora.r", (2, 4)) == rank
