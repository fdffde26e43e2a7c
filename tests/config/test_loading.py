"""A preset or a file, and overrides, become one validated configuration."""

from pathlib import Path

import pytest

from vademecum.config import RunConfig, anchored, load_config
from vademecum.config.loading import SHORT_NAMES
from vademecum.errors import ConfigError
from vademecum.sources import CORPORA, MODELS


def test_defaults_then_file_then_overrides(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nlearning_rate = 2e-4\nmax_length = 256\n", encoding="utf-8")
    config = load_config(file, ["train.max_length=128", "seed=7", "corpus.source=some/path.csv"])
    assert config.train.learning_rate == 2e-4
    assert config.train.max_length == 128
    assert config.train.optim == RunConfig().train.optim
    assert config.seed == 7
    assert config.corpus.source == "some/path.csv"


def test_resolved_configuration_loads_to_itself(tmp_path: Path) -> None:
    config = load_config("paper", ["budget.minutes=5"])
    file = tmp_path / "config.json"
    file.write_text(config.model_dump_json(), encoding="utf-8")
    assert load_config(file) == config


def test_path_beside_the_file_is_found_from_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "data.csv").write_text("question,answer\n", encoding="utf-8")
    (folder / "mine.toml").write_text('[corpus]\nsource = "data.csv"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_config(folder / "mine.toml").corpus.source == str((folder / "data.csv").resolve())


def test_a_path_that_is_given_is_found_from_any_other_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("data/qa.csv", "model/config.json", "sample/qa.csv", "smollm2-135m/config.json"):
        Path(name).parent.mkdir()
        Path(name).touch()
    found = anchored(load_config("demo", ["corpus.source=data/qa.csv", "model.name=model"]))
    assert (found.corpus.source, found.model.name) == (str(tmp_path / "data" / "qa.csv"), str(tmp_path / "model"))
    named = load_config("demo")
    assert (named.corpus.source, named.model.name) == ("sample", "smollm2-135m")
    assert anchored(named) == named


def test_a_home_directory_is_put_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "qa.csv").touch()
    assert anchored(load_config("demo", ["corpus.source=~/qa.csv"])).corpus.source == str(tmp_path / "qa.csv")
    strange = load_config("demo", ["corpus.source=~nobody-of-this-name/qa.csv"])
    assert anchored(strange) == strange


def test_short_names_are_those_that_can_be_fetched() -> None:
    assert {"sample", *CORPORA, *MODELS} == set(SHORT_NAMES)


def test_none_unsets() -> None:
    assert load_config("demo", ["budget.minutes=none"]).budget.minutes is None


def test_no_quantization_is_said_as_in_a_file() -> None:
    assert load_config("qlora-8gb").model.quantization == "nf4"
    assert load_config("qlora-8gb", ["model.quantization=none"]).model.quantization == "none"


def test_all_mistakes_are_listed_at_once_with_the_nearest_names(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nlearning_rte = 1\nmax_length = 'x'\n[lora]\nlearning_rate = 1\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    message = caught.value.message
    assert "3 wrong settings" in message
    assert "train.learning_rte: there is no such setting; did you mean train.learning_rate?" in message
    assert "train.max_length" in message
    assert "'x'" in message
    assert "lora.learning_rate: there is no such setting; did you mean train.learning_rate?" in message


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["train.max_length"], "has no '='"),
        (["seed=1", "seed.deeper=1"], "is a value, not a section"),
        (["split.train=0.9"], "must be 1"),
        (["prompt.question=no place"], "{question}"),
        (["lora.lora_dropout=1.5"], "lora.lora_dropout"),
    ],
)
def test_bad_overrides_are_refused(overrides: list[str], found: str) -> None:
    with pytest.raises(ConfigError, match=found.replace("{", r"\{")):
        load_config("demo", overrides)


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"[train\n", "malformed"), (b"\xff\xfe\x00", "cannot be read"), (b"a = 1\na = 2\n", "malformed")],
)
def test_unreadable_files_are_named(tmp_path: Path, content: bytes, found: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=found) as caught:
        load_config(file)
    assert "bad.toml" in caught.value.message


def test_unknown_name_lists_the_presets() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("dmo")
    assert "demo" in caught.value.hint


def test_an_empty_path_is_not_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[corpus]\nsource = ""\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"corpus\.source"):
        load_config(tmp_path / "mine.toml")


@pytest.mark.parametrize("value", ["inf", "1e999", "nan"])
def test_numbers_that_cannot_be_written_down_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.learning_rate"):
        load_config("demo", [f"train.learning_rate={value}"])


@pytest.mark.parametrize("content", ["a = " + "[" * 5_000, "seed = " + "9" * 5_000])
def test_a_file_that_the_parser_gives_up_on_is_malformed(tmp_path: Path, content: str) -> None:
    (tmp_path / "deep.toml").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match="malformed"):
        load_config(tmp_path / "deep.toml")
