"""What a study declares: a baseline run, factors with levels, seeds, a budget, and the claims to be tested.

    baseline = "paper"
    set = ["split.strategy=grouped", "generate.test_pairs=100"]
    baseline_seeds = [0, 1, 2, 3, 4]

    [[factors]]
    name = "optimizer"
    levels = ["train.optim=adamw_torch", "train.optim=adafactor"]

    [[claims]]
    name = "AdamW beats Adafactor"
    variant = "optimizer=adamw_torch"
    against = "optimizer=adafactor"
    metric = "rougeL"
    direction = "higher"

Everything that a trial differs in is an override of a run's own settings: a study can express nothing that a run
cannot.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError, model_validator

from vademecum.config.loading import PRESETS, apply_override, read_tree
from vademecum.config.sections import PositiveInt, Section
from vademecum.errors import ConfigError

StudyMetric = Literal["rouge1", "rouge2", "rougeL", "rougeLsum", "validation_loss"]
Name = Annotated[str, Field(min_length=1, pattern=r"^[^,=/]+$")]


def _each_once(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("each seed once: the same one again is the same trial")
    return seeds


Seeds = Annotated[tuple[int, ...], AfterValidator(_each_once)]


class Factor(Section):
    """Something that is varied. Without a grid, several may have one name: parts with seeds of their own."""

    name: Name
    """Stands in the names of variants: `optimizer` in `optimizer=adafactor`."""
    levels: Annotated[tuple[str | tuple[str, ...], ...], Field(min_length=1)]
    """Overrides such as `train.optim=adafactor`, one or several per level. A level that says what the baseline says
    anyway is the baseline."""
    seeds: Annotated[Seeds, Field(min_length=1)] | None = None
    """train.seed of its levels' trials; unset: the study's `seeds`. A level of several factors has all of theirs."""


class Claim(Section):
    """A statement that the study confirms, contradicts or leaves open."""

    name: str
    """In words."""
    variant: str = "baseline"
    """Such as `warmup=100`."""
    against: str = "baseline"
    """The variant that it is held against; of no account with `diverges`."""
    metric: StudyMetric = "rougeL"
    """What is compared, on the same test pairs."""
    direction: Literal["higher", "lower", "diverges"] = "higher"
    """What is claimed of `variant`: its metric is higher or lower than that of `against`, or its training diverges."""

    @property
    def compares(self) -> bool:
        """Whether it is about a difference, which can be tested, and not about a divergence, which is seen."""
        return self.direction != "diverges"


class Margins(Section):
    """Differences that would be of no account, declared before the study is run."""

    rouge: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """For the four ROUGE metrics."""
    validation_loss: Annotated[float, Field(gt=0)] = 0.02
    """In nats per trained token."""


class StudyConfig(Section):
    """A whole study."""

    baseline: str
    """A preset or a file of a run."""
    set: tuple[str, ...] = ()
    """Overrides for all trials."""
    design: Literal["one-factor", "grid"] = "one-factor"
    """`one-factor`: each level alone against the baseline. `grid`: every combination of levels."""
    factors: tuple[Factor, ...] = ()
    """What is varied."""
    baseline_seeds: Annotated[Seeds, Field(min_length=2)] = (0, 1, 2, 3, 4)
    """train.seed of the baseline's trials: how much they differ is the noise floor."""
    seeds: Annotated[Seeds, Field(min_length=1)] = (0,)
    """train.seed of every other variant's trials, where its factor has no `seeds` of its own."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """For the whole study. Sizes the train subset, the same for all trials; no trial is cut by the clock."""
    reference_steps: PositiveInt | None = None
    """Optimizer steps that the warmup counts were meant for. Where some would not end here, all keep the proportion."""
    margins: Margins = Margins()
    """What counts as no real difference."""
    claims: tuple[Claim, ...] = ()
    """What is to be tested."""


class Range(Section):
    """A setting that a search varies: a range of numbers, or choices."""

    setting: Annotated[str, Field(pattern=r"^(train|lora)\.[a-z_A-Z]+$")]
    """Of the sections train and lora: `train.learning_rate`. Others would change what the validation loss means."""
    low: int | float | None = None
    """Smallest value of a range; whole numbers where both ends are."""
    high: int | float | None = None
    """Largest value of a range."""
    log: bool = False
    """Whether values are drawn by their order of magnitude."""
    choices: tuple[str | int | float | bool, ...] = ()
    """Instead of a range: all values."""

    @model_validator(mode="after")
    def _is_a_range_or_choices(self) -> "Range":
        if self.setting in MEANING_OF_LOSS:
            raise ValueError(f"{self.setting} changes what the validation loss means, so losses cannot be compared")
        ranged = self.low is not None and self.high is not None and self.low < self.high
        if bool(self.choices) == ranged or (self.log and not (ranged and (self.low or 0) > 0)):
            raise ValueError("give either choices, or low below high (above zero with log)")
        return self


class SearchConfig(Section):
    """A search for a better recipe."""

    baseline: str
    """A preset or a file of a run: the default that the best one is held against."""
    set: tuple[str, ...] = ()
    """Overrides for all trials."""
    over: Annotated[tuple[Range, ...], Field(min_length=1)]
    """What is varied."""
    trials: PositiveInt = 12
    """Most trials, the baseline's not counted."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """For the whole search, the two verdicts at its end counted in. Fewer trials are made where it does not suffice."""
    prune: bool = False
    """Stop trials early whose validation loss is in the worse half at their step: Optuna's successive halving."""
    storage: str = ""
    """Any storage address of Optuna without a password; empty: VADE_SEARCH_STORAGE, or an SQLite file in the search's
    directory."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of the sampler."""


LOSS_TOKENS = ("train.max_length", "train.overlong", "train.eval_pairs")
"""Settings of the section train that decide which tokens the validation loss is of."""
MEANING_OF_LOSS = (
    *LOSS_TOKENS, "train.max_pairs", "train.max_steps", "train.num_train_epochs", "train.batching", "train.seed",
)  # fmt: skip
"""Settings that a search may not vary: the loss would be of other tokens, or of another budget, or luck."""

DeclarationType = TypeVar("DeclarationType", bound=Section)


def study_names() -> list[str]:
    """The names of the studies that ship with the package."""
    return _names("studies")


def is_study(name: str | Path) -> bool:
    """Whether `name` is a study, one that ships or a file that names a baseline, and not a single run or a search."""
    path = Path(name)
    if not path.is_file():
        return str(name) in study_names()
    tree = read_tree(path, str(name))
    return "baseline" in tree and "over" not in tree


def load_study(name: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a study that ships with the package, or a TOML (or resolved JSON) file, and validate it once.

    An override with a dot, such as `model.name=smollm2-135m`, is one for all trials; one without, such as
    `minutes=480`, and one that begins with a setting of the study, such as `margins.rouge=0.02`, is the study's own. A
    `baseline` that is a file is looked for beside the study's file.

    Raises:
        ConfigError: the file is missing or malformed, or any key or value is wrong (all mistakes are listed at once).
    """
    return _load(name, overrides, StudyConfig, "studies")


def load_search(name: str | Path, overrides: Sequence[str] = ()) -> SearchConfig:
    """Read a search, as `load_study` reads a study."""
    return _load(name, overrides, SearchConfig, "searches")


def _load(name: str | Path, overrides: Sequence[str], kind: type[DeclarationType], shelf: str) -> DeclarationType:
    path = Path(name)
    if str(name) in _names(shelf) and not path.is_file():
        tree = read_tree(PRESETS / shelf / f"{name}.toml", f"{name}.toml")
    elif path.is_file():
        tree = read_tree(path, str(name))
        beside = path.parent / str(tree.get("baseline", ""))
        if beside.is_file():
            tree["baseline"] = str(beside.resolve())
    else:
        raise ConfigError(
            f"no study or search and no file is called {str(name)!r}",
            hint=f"there is {', '.join(_names(shelf))}; or give the path of a TOML file, see docs/studies.md",
        )
    own = [one for one in overrides if _is_own(one.partition("=")[0].strip(), kind)]
    for one in own:
        apply_override(tree, one)
    declared = tree.get("set", [])
    if isinstance(declared, list):  # else the validation below says so
        tree["set"] = [*declared, *(one for one in overrides if one not in own)]
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        wrong = [
            f"  {_place(item['loc'])}: {_said(item['type'], item['msg'])}; found {item['input']!r}"
            for item in error.errors()
        ]
        raise ConfigError(
            f"{name} has {len(wrong)} wrong settings:\n" + "\n".join(wrong),
            hint="docs/studies.md says what a study or a search takes",
        ) from None


def _names(shelf: str) -> list[str]:
    files_there = (PRESETS / shelf).iterdir()
    return sorted(entry.name.removesuffix(".toml") for entry in files_there if entry.name.endswith(".toml"))


def _is_own(setting: str, kind: type[Section]) -> bool:
    return "." not in setting or setting.partition(".")[0] in kind.model_fields


def _said(kind: str, message: str) -> str:
    """In TOML's words."""
    words = {"extra_forbidden": "there is no such setting", "tuple_type": "it should be a list"}
    return words.get(kind, message)


def _place(location: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in location) or "(top)"
