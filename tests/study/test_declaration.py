"""A declaration is validated once, and every mistake is named."""

from pathlib import Path

import pytest

from vademecum.errors import ConfigError
from vademecum.study import load_study, study_names
from vademecum.study.design import lay_out_design

SMALL = """
baseline = "demo"
set = ["budget.minutes=none", "generate.no_repeat_ngram_size=0"]

[[factors]]
name = "optimizer"
levels = ["train.optim=adamw_torch", "train.optim=adafactor"]
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "study.toml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("name", study_names())
def test_what_ships_can_be_laid_out(name: str) -> None:
    design = lay_out_design(load_study(name))
    assert design.variants[0].name == "baseline"
    assert len(design.trials()) == len({trial.name for trial in design.trials()})


def test_the_paper_s_design() -> None:
    design = lay_out_design(load_study("paper-study"))
    trials = design.trials()
    assert len([trial for trial in trials if trial.variant == "baseline"]) == 5
    # Every level that is not the baseline's once, but for what is claimed to diverge.
    assert len(trials) == 5 + 1 + (1 + 2) + 2 + 2 + 2
    assert [trial.seed for trial in trials if trial.variant == "learning rate=5e-3"] == [0, 1]
    rates = {trial.variant: trial.config.train.learning_rate for trial in trials}
    assert (rates["learning rate=5e-3"], rates["learning rate=5e-5"], rates["baseline"]) == (5e-3, 5e-5, 1e-3)
    assert {trial.config.seed for trial in trials} == {0}  # one split, one subset, one test set


def test_overrides_with_a_dot_are_for_the_runs_and_others_for_the_study(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, SMALL), ["minutes=480", "train.max_pairs=40", "baseline_seeds=[3, 4]"])
    design = lay_out_design(study)
    assert study.minutes == 480
    assert {trial.config.train.max_pairs for trial in design.trials()} == {40}
    assert [trial.seed for trial in design.trials() if trial.variant == "baseline"] == [3, 4]


def test_a_baseline_beside_the_file_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text("[generate]\nno_repeat_ngram_size = 0\n[train]\nmax_length = 96\n")
    file = write(tmp_path, SMALL.replace('"demo"', '"mine.toml"'))
    monkeypatch.chdir("/")
    assert lay_out_design(load_study(file)).baseline.train.max_length == 96


def test_a_path_of_this_machine_stays_out_of_the_names(tmp_path: Path) -> None:
    levels = ["model.name=/home/max/models/x", "model.name='C:\\\\max\\\\y'", "model.name=hub/z", "lora.r=2"]
    both = ["model.name=/home/max/models/x", "lora.r=4"]
    text = SMALL + f"[[factors]]\nname = 'model'\nlevels = {[*levels, both]}\n"
    text += "[[claims]]\nname = 'x is better'\nvariant = 'model=x'\n"
    design = lay_out_design(load_study(write(tmp_path, text)))
    names = [variant.name for variant in design.variants]
    assert names == ["baseline", "optimizer=adafactor", "model=x", "model=y", "model=z", "model=2", "model=x+4"]
    assert not any("max" in name for name in [*names, *design.aliases, *design.factors["model"]])
    assert {trial.config.model.name for trial in design.trials() if trial.variant == "model=x"} == {
        "/home/max/models/x"
    }


WRONG = [
    ("[[claims]]\nname = 'a'\nvariant = 'optimizer=sgd'", "names a variant 'optimizer=sgd' that there is not"),
    ("[[claims]]\nname = 'a'\nvariant = 'optimizer=adamw_torch'", "compares 'baseline' with itself"),
    ("[[factors]]\nname = 'x'\nlevels = ['train.optimm=adafactor']", "there is no such setting"),
    ("[[factors]]\nname = 'a=b'\nlevels = ['train.optim=adafactor']", "factors.1.name"),
    ("[[factors]]\nname = 'optimizer'\nlevels = ['model.revision=adafactor']", "two levels"),
    ("[[factors]]\nname = 'm'\nlevels = ['model.name=/a/x', 'model.name=/b/x']", "two levels are called 'm=x'"),
    ("[[claims]]\nname = 'a'\nmetric = 'bleu'", "claims.0.metric"),
    ("[margins]\nrouge = 0", "margins.rouge"),
    (
        "[[factors]]\nname = 'length'\nlevels = ['train.max_length=96']\n"
        "[[claims]]\nname = 'a'\nvariant = 'length=96'\nmetric = 'validation_loss'\ndirection = 'lower'",
        "are of other tokens",
    ),
    ("[extra]\na = 1", "extra"),
    ("[[factors]]\nname = 'pairs'\nlevels = ['generate.test_pairs=5']", "changes generate.test_pairs"),
    ("[[factors]]\nname = 'luck'\nlevels = ['seed=5']", "changes seed"),
    ("[[factors]]\nname = 'clock'\nlevels = ['budget.minutes=5']", "the clock cuts"),
]


@pytest.mark.parametrize(("more", "words"), WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, more: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lay_out_design(load_study(write(tmp_path, f"{SMALL}\n{more}\n")))
    assert words in caught.value.message
    assert caught.value.hint


def test_margins_are_the_study_s_own_though_they_have_a_dot(tmp_path: Path) -> None:
    file = write(tmp_path, SMALL)
    study = load_study(file, ["margins.rouge=0.03", "margins.validation_loss=0.5"])
    assert (study.margins.rouge, study.margins.validation_loss) == (0.03, 0.5)
    assert not any("margins" in one for one in study.set)
    with pytest.raises(ConfigError, match=r"margins\.rouge1: there is no such setting; found 0\.02"):
        load_study(file, ["margins.rouge1=0.02"])


@pytest.mark.parametrize("wrong", ['"train.max_pairs=40"', "5"])
@pytest.mark.parametrize("overrides", [[], ["train.max_steps=4"]])
def test_a_set_that_is_no_list_is_refused(tmp_path: Path, wrong: str, overrides: list[str]) -> None:
    text = SMALL.replace('set = ["budget.minutes=none", "generate.no_repeat_ngram_size=0"]', f"set = {wrong}")
    with pytest.raises(ConfigError, match=f"set: it should be a list; found {wrong}".replace('"', "'")):
        load_study(write(tmp_path, text), overrides)


def test_a_factor_s_seeds_are_those_of_its_levels_and_parts_add_up(tmp_path: Path) -> None:
    text = SMALL + (
        "seeds = [5, 6]\n[[factors]]\nname = 'rank'\nlevels = ['lora.r=2', 'lora.r=4']\n"
        "[[factors]]\nname = 'rank'\nlevels = ['lora.r=4']\nseeds = [0, 3]\n"
    )
    design = lay_out_design(load_study(write(tmp_path, text)))
    seeds = {variant.name: variant.seeds for variant in design.variants}
    assert seeds == {
        "baseline": (0, 1, 2, 3, 4), "optimizer=adafactor": (5, 6), "rank=2": (0,), "rank=4": (0, 3),
    }  # fmt: skip
    assert len(design.trials()) == 5 + 2 + 1 + 2
    with pytest.raises(ConfigError, match="two factors of a grid have one name"):
        lay_out_design(load_study(tmp_path / "study.toml", ["design=grid"]))


def test_a_combination_has_the_seeds_of_its_factors(tmp_path: Path) -> None:
    text = SMALL.replace("baseline =", 'design = "grid"\nbaseline =') + "seeds = [5, 6]\n"
    text += "[[factors]]\nname = 'rank'\nlevels = ['lora.r=8', 'lora.r=2']\n"
    design = lay_out_design(load_study(write(tmp_path, text)))
    seeds = {variant.name: variant.seeds for variant in design.variants}
    assert seeds["rank=2"] == (0,)  # though it is optimizer=adamw_torch,rank=2 as well
    assert seeds["optimizer=adafactor,rank=2"] == (5, 6, 0)


def test_a_seed_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="each seed once"):
        load_study(write(tmp_path, SMALL), ["baseline_seeds=[0, 0, 1]"])


def test_losses_of_other_tokens_are_told_apart(tmp_path: Path) -> None:
    text = SMALL + "[[factors]]\nname = 'length'\nlevels = ['train.max_length=96']\n"
    of = lay_out_design(load_study(write(tmp_path, text))).loss_tokens
    assert of["baseline"] == of["optimizer=adafactor"] != of["length=96"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("generate.systems=['base', 'copy']", "trains nothing"),
        ("generate.no_repeat_ngram_size='auto'", "a decoding of their own"),
        ("budget.minutes=3", "the clock cuts"),
    ],
)
def test_a_baseline_that_trials_could_not_share_is_refused(tmp_path: Path, setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        lay_out_design(load_study(write(tmp_path, SMALL), [setting]))


def test_unknown_names_list_what_there_is() -> None:
    with pytest.raises(ConfigError, match="no study or search") as caught:
        load_study("papier-study")
    assert "paper-study" in caught.value.hint


def test_a_grid_has_every_combination_once(tmp_path: Path) -> None:
    text = SMALL.replace("baseline =", 'design = "grid"\nbaseline =')
    text += "[[factors]]\nname = 'rank'\nlevels = ['lora.r=8', 'lora.r=4', 'lora.r=2']\n"
    design = lay_out_design(load_study(write(tmp_path, text)))
    found = {(trial.config.train.optim, trial.config.lora.r) for trial in design.trials()}
    assert found == {(optim, r) for optim in ("adamw_torch", "adafactor") for r in (8, 4, 2)}
    assert len(design.variants) == len(found)
    assert design.aliases["optimizer=adamw_torch,rank=4"] == "rank=4"
