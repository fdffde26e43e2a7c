"""From a declaration to its variants and trials, each with the whole configuration of a run."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from vademecum.config import RunConfig, load_config
from vademecum.errors import ConfigError
from vademecum.files import digest_value
from vademecum.report import file_name
from vademecum.study.declaration import LOSS_TOKENS, Factor, StudyConfig
from vademecum.study.records import BASELINE, COMBINED

LONGEST_NAME = 100
QUOTES = " '\""
"""Around a value in TOML."""
BATCH_SETTINGS = {
    "train.per_device_train_batch_size", "train.gradient_accumulation_steps", "train.examples_per_step",
}  # fmt: skip
Levels = tuple[tuple[str, str], ...]
"""Factor and label of each level."""


@dataclass(frozen=True)
class Variant:
    """The baseline, or what is held against it."""

    name: str
    """`baseline`, or its levels: `optimizer=adafactor`."""
    overrides: tuple[str, ...]
    """What it changes in the baseline."""
    seeds: tuple[int, ...]
    factors: tuple[int, ...] = ()
    """Places, among those that the study declares, of the factors that it is a level of, or a combination."""


@dataclass(frozen=True)
class Trial:
    """A variant with a seed: one run."""

    variant: str
    seed: int
    config: RunConfig

    @property
    def name(self) -> str:
        """Of its folder."""
        return trial_name(self.variant, self.seed)


@dataclass(frozen=True)
class Design:
    """What is compared with what."""

    study: StudyConfig
    variants: tuple[Variant, ...]
    """The baseline first."""
    factors: dict[str, dict[str, str]]
    """Factor → label of the level → variant; the level that the baseline has is `baseline`. Combinations of a grid
    stand under `combined`."""
    aliases: dict[str, str] = field(default_factory=dict)
    """Every name that a claim may use → variant."""
    loss_tokens: dict[str, str] = field(default_factory=dict)
    """Variant → what its validation loss is of; losses are compared where that is equal."""

    @cached_property
    def baseline(self) -> RunConfig:
        """As declared, before the study is sized."""
        return load_config(self.study.baseline, self.study.set)

    def trials(self, overrides: Sequence[str] = (), warmup_steps: dict[str, int] | None = None) -> list[Trial]:
        """Every variant with every seed; `overrides` come from sizing, `warmup_steps` by variant too."""
        return list(self._trials(overrides, warmup_steps or {}))

    def _trials(self, overrides: Sequence[str], warmup_steps: dict[str, int]) -> Iterator[Trial]:
        for variant in self.variants:
            named = {one.partition("=")[0].strip() for one in variant.overrides}
            # A level that says how many examples a step has says it whole.
            fixed = [one for one in overrides if not (named & BATCH_SETTINGS and one.startswith(tuple(BATCH_SETTINGS)))]
            scaled = [f"train.warmup_steps={warmup_steps[variant.name]}"] if variant.name in warmup_steps else []
            # What sizing chose is for what the study leaves open: a level has the last word.
            own = [*self.study.set, *fixed, *variant.overrides, *scaled]
            for seed in variant.seeds:
                yield Trial(variant.name, seed, load_config(self.study.baseline, [*own, f"train.seed={seed}"]))


def lay_out_design(study: StudyConfig) -> Design:
    """Resolve every level and refuse what could not be compared.

    Raises:
        ConfigError: a level is no valid override, two levels or factors have one name, a claim names a variant that
            there is not, or the baseline leaves open what all trials must share.
    """
    base = load_config(study.baseline, study.set)
    _check_variant(BASELINE, base, base)
    known: dict[str, Variant] = {BASELINE: Variant(BASELINE, (), study.baseline_seeds)}
    configs = {BASELINE: base}
    aliases = {BASELINE: BASELINE}
    factors: dict[str, dict[str, str]] = {}
    _check_names(study)
    for levels, overrides, places in _combinations(study):
        name = ",".join(f"{factor}={label}" for factor, label in levels)
        config = load_config(study.baseline, [*study.set, *overrides])
        same = next((found for found, other in configs.items() if other == config), name)
        if name in aliases and configs[aliases[name]] != config:
            raise ConfigError(
                f"two levels are called {name!r}",
                hint="give the factors different names; what counts of a model's path is its last part",
            )
        aliases[name] = same
        _check_variant(name, config, base)
        if same not in known:
            if any(folder_name(name) == folder_name(other) for other in known):
                raise ConfigError(f"{name!r} would have the directory of another variant", hint="rename its factor")
            known[name], configs[name] = Variant(name, overrides, declared_seeds(study, places), places), config
        elif same != BASELINE and len(levels) == 1:
            both = (*known[same].factors, *places)
            known[same] = replace(known[same], seeds=declared_seeds(study, both), factors=both)
        if len(levels) == 1:
            factors.setdefault(levels[0][0], {})[levels[0][1]] = same
        elif same == name:
            factors.setdefault(COMBINED, {})[name] = name
    loss_tokens = {name: _loss_tokens(config) for name, config in configs.items()}
    _check_claims(study, aliases, loss_tokens)
    return Design(study, tuple(known.values()), factors, aliases, loss_tokens)


def declared_seeds(study: StudyConfig, factors: Sequence[int]) -> tuple[int, ...]:
    """Of a variant by the places of its factors: none for the baseline."""
    if not factors:
        return study.baseline_seeds
    return tuple(dict.fromkeys(seed for place in factors for seed in study.factors[place].seeds or study.seeds))


def _check_names(study: StudyConfig) -> None:
    names = [factor.name for factor in study.factors]
    if study.design == "grid" and len(set(names)) < len(names):
        raise ConfigError(
            "two factors of a grid have one name, and their levels cannot be combined",
            hint="make them one factor, or give them different names",
        )


def _combinations(study: StudyConfig) -> Iterator[tuple[Levels, tuple[str, ...], tuple[int, ...]]]:
    """Each level alone; for a grid, after that, all combinations of several factors. With its overrides, and the places
    of its factors."""
    by_factor = [
        [(place, factor.name, *level) for level in _levels(factor)] for place, factor in enumerate(study.factors)
    ]
    sizes = range(1, len(by_factor) + 1) if study.design == "grid" else range(1, 2)
    for size in sizes:
        for chosen in itertools.combinations(by_factor, size):
            for combination in itertools.product(*chosen):
                yield (
                    tuple((factor, label) for _, factor, label, _ in combination),
                    tuple(text for *_, overrides in combination for text in overrides),
                    tuple(place for place, *_ in combination),
                )


def _levels(factor: Factor) -> list[tuple[str, tuple[str, ...]]]:
    found = []
    for level in factor.levels:
        overrides = (level,) if isinstance(level, str) else level
        found.append(("+".join(without_path(one).partition("=")[2].strip() for one in overrides), overrides))
    return found


def without_path(override: str) -> str:
    """As names and a public report may show it: of a path, or an address on a hub, the last part."""
    name, _, value = override.partition("=")
    return f"{name}={file_name(value.strip(QUOTES))}" if name.strip() in ("corpus.source", "model.name") else override


def folder_name(variant: str) -> str:
    """A variant's name as part of a file's; long ones are shortened and told apart by a digest."""
    name = re.sub(r"[^A-Za-z0-9._=,+-]", "-", variant)
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}-{digest_value(variant)[:8]}"


def trial_name(variant: str, seed: int) -> str:
    """Of a trial, and its folder."""
    return f"{folder_name(variant)}-seed{seed}"


def is_trial_of(name: str, variant: str) -> bool:
    """Whether a trial of this name is one of the variant's."""
    return name.rpartition("-seed")[0] == folder_name(variant)


def _check_variant(name: str, config: RunConfig, base: RunConfig) -> None:
    """Refuse a variant that could not be compared with the others, pair by pair."""
    shared = ("seed", "corpus", "split", "evaluate")
    different = [section for section in shared if getattr(config, section) != getattr(base, section)]
    different += [
        f"generate.{key}"
        for key in ("systems", "test_pairs")
        if getattr(config.generate, key) != getattr(base.generate, key)
    ]
    if different:
        raise ConfigError(
            f"{name} changes {', '.join(different)}, and all trials must share them",
            hint="compare such runs with `vade compare`, or put the change into `set`, for all",
        )
    check_answering(config)
    if config.budget.minutes is not None:
        raise ConfigError(
            f"budget.minutes = {config.budget.minutes:g}: trials that the clock cuts cannot be compared",
            hint="give `minutes` to the study, and set = ['budget.minutes=none']",
        )


def check_answering(config: RunConfig) -> None:
    """Refuse a run whose tuned model would not answer, or not in the way that others answer in.

    Raises:
        ConfigError: it is such a run.
    """
    if "tuned" not in config.generate.systems:
        raise ConfigError(
            "a trial trains nothing: generate.systems lacks 'tuned'", hint="add it, or take another baseline"
        )
    if config.generate.no_repeat_ngram_size == "auto":
        raise ConfigError(
            "the trials would each choose a decoding of their own: generate.no_repeat_ngram_size is 'auto'",
            hint="set it for all: set = ['generate.no_repeat_ngram_size=0'] or 6",
        )


def _loss_tokens(config: RunConfig) -> str:
    """What decides which tokens the validation loss is of: the tokenizer, the prompt, and how rows are made."""
    train = (getattr(config.train, name.partition(".")[2]) for name in LOSS_TOKENS)
    return digest_value([config.model.name, config.model.revision, config.prompt.model_dump(), *train])


def _check_claims(study: StudyConfig, aliases: dict[str, str], loss_tokens: dict[str, str]) -> None:
    for claim in study.claims:
        for name in (claim.variant, claim.against):
            if name not in aliases:
                raise ConfigError(
                    f"the claim {claim.name!r} names a variant {name!r} that there is not",
                    hint=f"variants are {', '.join(aliases)}",
                )
        variant, against = aliases[claim.variant], aliases[claim.against]
        if claim.compares and variant == against:
            raise ConfigError(
                f"the claim {claim.name!r} compares {variant!r} with itself",
                hint="name two levels that differ, or set `against`",
            )
        # The baseline's too, for its seeds measure the noise.
        tokens = {loss_tokens[name] for name in (variant, against, BASELINE)}
        if claim.compares and claim.metric == "validation_loss" and len(tokens) > 1:
            raise ConfigError(
                f"the claim {claim.name!r} compares validation losses of {variant!r} and {against!r}, which are of "
                "other tokens, or of others than the baseline's",
                hint="claim a ROUGE metric: the answers are scored in words, whatever the rows and the tokenizer",
            )
