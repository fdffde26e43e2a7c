"""A search on the tiny checkpoint: it goes on where it was stopped, and ends in a configuration with a verdict."""

import json
from pathlib import Path
from signal import Signals

import pytest
from tests.listener import Listener
from tests.study.test_execution import TINY

from vademecum.config import load_config
from vademecum.errors import ConfigError, StaleError, StoppedError
from vademecum.runs import Run
from vademecum.stopping import Stop
from vademecum.study import SearchConfig, Setting, load_search, make_executor
from vademecum.study.folder import StudyFolder
from vademecum.study.search import SearchResult, run_search
from vademecum.study.storage import open_optuna

RATES = {"setting": "train.learning_rate", "low": 1e-4, "high": 1e-1, "log": True}


def tiny_search(checkpoint: Path, **fields: object) -> SearchConfig:
    declared = {
        "baseline": "demo",
        "set": (
            f"model.name={checkpoint}", *TINY, "budget.minutes=none", "train.max_steps=6", "train.eval_steps=2",
            "train.examples_per_step=4", "generate.no_repeat_ngram_size=0", "generate.systems=['base', 'tuned']",
        ),
        "over": (RATES, {"setting": "train.examples_per_step", "choices": (4, 8)}),
        "trials": 3,
    }  # fmt: skip
    return SearchConfig.model_validate(declared | fields)


class StopsAfter(Listener):
    """Asks the search to stop once so many trials have been told of."""

    def __init__(self, trials: int) -> None:
        super().__init__()
        self.stop = Stop()
        self._trials = trials

    def say(self, text: str) -> None:
        super().say(text)
        if sum("train.learning_rate" in said for said in self.said) >= self._trials:
            self.stop.ask(Signals.SIGINT)


def work(config: SearchConfig, folder: Path, listener: StopsAfter | None = None) -> SearchResult:
    setting = Setting(make_executor("local"), listener or Listener(), stop=listener.stop if listener else Stop())
    return run_search(config, folder, setting)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_search_stopped_and_taken_up_again(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = tiny_search(tiny_checkpoint)
    with pytest.raises(StoppedError):
        work(config, tmp_path / "s", StopsAfter(1))
    found = work(config, tmp_path / "s")
    tried = [row for row in found.trials if row.name != "baseline"]
    assert len({row.name for row in tried}) == len(tried) == 3
    assert {row.status for row in found.trials} == {"completed"}
    losses = {row.name: row.validation_loss for row in found.trials}
    assert losses[found.best] == min(losses.values(), key=lambda loss: loss or 9)
    # As many examples for all, whatever their number per step.
    for row in tried:
        train = load_config(tmp_path / "s" / "trials" / row.name / "config.json").train
        assert train.max_steps == {4: 6, 8: 3}[row.settings["train.examples_per_step"]]
    best = load_config(tmp_path / "s" / "best.json")
    if found.best != "baseline":
        assert best.train.learning_rate == found.settings["train.learning_rate"]
        assert {row.metric for row in found.comparisons} == {"rouge1", "rouge2", "rougeL", "rougeLsum"}
    assert json.loads((tmp_path / "s" / "search.json").read_text())["best"] == found.best
    reports = sorted(path.parent.name for path in (tmp_path / "s" / "trials").glob("*/report.json"))
    assert reports == sorted({"baseline", found.best})  # the others never saw a test pair
    with pytest.raises(StaleError, match="over changed"):
        work(tiny_search(tiny_checkpoint, over=(RATES,)), tmp_path / "s")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_search_ends_when_everything_was_tried(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = tiny_search(tiny_checkpoint, over=({"setting": "lora.r", "choices": (2, 8)},), trials=9)
    found = work(config, tmp_path / "s")
    assert sorted(row.settings["lora.r"] for row in found.trials if row.settings) == [2, 8]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_trial_in_the_worse_half_is_ended_early(tiny_checkpoint: Path, tmp_path: Path) -> None:
    rates = {"setting": "train.learning_rate", "choices": (3e-2, 1e-5, 1e-6, 1e-7)}
    config = tiny_search(tiny_checkpoint, over=(rates,), trials=9, prune=True)
    config = config.model_copy(update={"set": (*config.set, "train.max_steps=12")})
    found = work(config, tmp_path / "s")
    runs = {row.name: Run.open(tmp_path / "s" / "trials" / row.name) for row in found.trials}
    steps = {name: run.read_lines("training.jsonl")[-1]["step"] for name, run in runs.items()}
    pruned = [row for row in found.trials if row.status == "pruned"]
    assert pruned
    assert all(steps[row.name] < 12 for row in pruned)
    assert all(steps[row.name] == 12 for row in found.trials if row not in pruned)
    assert found.settings["train.learning_rate"] == 3e-2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_minutes_are_those_of_all_sittings(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = tiny_search(tiny_checkpoint)
    with pytest.raises(StoppedError):
        work(config, tmp_path / "s", StopsAfter(1))
    baseline = Run.open(tmp_path / "s" / "trials" / "baseline")
    hours = baseline.entries()["train"].model_copy(update={"seconds": 7200.0})
    baseline.complete("train", hours)
    found = work(config.model_copy(update={"minutes": 120.0}), tmp_path / "s")
    assert len(found.trials) == 2  # the baseline and the trial of the first sitting


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_diverged_is_learnt_from_and_what_crashed_is_not(tiny_checkpoint: Path, tmp_path: Path) -> None:
    optimizers = {"setting": "train.optim", "choices": ("adamw_torch", "no_such_optimizer")}
    over = ({"setting": "train.learning_rate", "choices": (1e30,)}, optimizers)
    config = tiny_search(tiny_checkpoint, over=over)
    found = work(config, tmp_path / "s")
    ends = {row.settings["train.optim"]: row.status for row in found.trials if row.settings}
    assert ends == {"adamw_torch": "diverged", "no_such_optimizer": "failed"}
    told = {
        one.params["train.optim"]: one.state.name for one in open_optuna(config, StudyFolder(tmp_path / "s")).trials
    }
    assert told == {"adamw_torch": "PRUNED", "no_such_optimizer": "FAIL"}
    assert found.best == "baseline"
    assert not found.comparisons


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"setting": "train.max_length", "choices": [128, 256]}, "changes what the validation loss means"),
        ({"setting": "corpus.source", "choices": ["a", "b"]}, "over.0.setting"),
        ({"setting": "lora.r", "low": 8, "high": 4}, "low below high"),
        ({"setting": "train.weight_decay", "low": 0.0, "high": 0.1, "log": True}, "above zero with log"),
        ({"setting": "lora.r"}, "either choices"),
    ],
)
def test_what_cannot_be_searched_over_is_refused(tmp_path: Path, over: dict[str, object], words: str) -> None:
    rows = "\n".join(f"{name} = {json.dumps(value)}" for name, value in over.items())
    (tmp_path / "s.toml").write_text(f'baseline = "demo"\n[[over]]\n{rows}\n', encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_search(tmp_path / "s.toml")
    assert words in caught.value.message


def test_what_ships_can_be_read() -> None:
    search = load_search("lora", ["minutes=60", "train.max_steps=9"])
    assert search.minutes == 60
    assert load_config(search.baseline, search.set).train.max_steps == 9
