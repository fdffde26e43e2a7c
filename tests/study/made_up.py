"""Studies made up with known effects: trials, the scores of their test pairs, and the declaration they belong to."""

import math
import random
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from vademecum.config import EvaluateConfig
from vademecum.evaluation import METRICS
from vademecum.records import Estimate, Score
from vademecum.study.analysis import StudyAnalysis, analyse
from vademecum.study.declaration import StudyConfig
from vademecum.study.design import Design, lay_out_design
from vademecum.study.effects import Measurements
from vademecum.study.records import PairLoss, TrialResult, TrialStatus

SCALE = dict(zip(METRICS, (1.0, 0.5, 0.74, 0.88), strict=True))
FACTORS = {
    "optimizer": ("train.optim", ("adamw_torch", "adafactor")),
    "learning_rate": ("train.learning_rate", ("5e-5", "1e-3", "5e-3")),
    "warmup": ("train.warmup_steps", ("0", "100", "200")),
}
"""Of the preset paper: each has the level that the baseline has."""


@dataclass
class Study:
    """What `analyse` takes, to be changed by a test before it is analysed."""

    design: Design
    trials: list[TrialResult] = field(default_factory=list)
    scores: dict[str, list[Score]] = field(default_factory=dict)
    base: list[Score] = field(default_factory=list)
    losses: dict[str, list[PairLoss]] = field(default_factory=dict)
    evaluate: EvaluateConfig = field(default_factory=lambda: EvaluateConfig(resamples=50, min_groups=10))

    @property
    def config(self) -> StudyConfig:
        return self.design.study

    @property
    def measured(self) -> Measurements:
        return Measurements(self.scores, self.base, self.losses)

    def analysed(self, same: Sequence[Sequence[str]] = ()) -> StudyAnalysis:
        return analyse(self.design, self.trials, self.measured, self.evaluate, same)

    def without(self, *names: str) -> "Study":
        """As if these trials had not been run."""
        kept = [trial for trial in self.trials if trial.name not in names]
        return self._of(kept, {trial.name for trial in kept})

    def ended(self, status: TrialStatus, *names: str) -> "Study":
        """As if these trials had ended in another way."""
        trials = [
            trial.model_copy(update={"status": status, "remark": "made up", "metrics": {}, "validation_loss": None})
            if trial.name in names
            else trial
            for trial in self.trials
        ]
        return self._of(trials, self.scores.keys() - set(names))

    def _of(self, trials: list[TrialResult], measured: Set[str]) -> "Study":
        scores, losses = (
            {name: rows for name, rows in table.items() if name in measured} for table in (self.scores, self.losses)
        )
        return replace(self, trials=trials, scores=scores, losses=losses)  # type: ignore[arg-type]


def build_study(
    effects: Mapping[str, float],
    claims: Sequence[Mapping[str, str]] = (),
    *,
    noise: float = 0.004,
    pairs: int = 60,
    seeds: int = 2,
    margin: float = 0.01,
    rng: int = 1,
    **declared: Any,
) -> Study:
    """Variants whose ROUGE-1 differs from the baseline's by `effects[variant]`, and validation loss by minus ten times
    that; `noise` is the standard deviation between seeds. Two pairs make a group, of test and of validation pairs."""
    config = StudyConfig.model_validate(
        {
            "baseline": "paper",
            "factors": [
                {"name": factor, "levels": [f"{setting}={level}" for level in levels]}
                for factor, (setting, levels) in FACTORS.items()
            ],
            "seeds": list(range(seeds)),
            "claims": list(claims),
            "margins": {"rouge": margin, "validation_loss": 10 * margin},
            **declared,
        }
    )
    study = Study(lay_out_design(config))
    draw, other = random.Random(rng), random.Random(rng + 1)
    hard = [draw.gauss(0, 0.05) for _ in range(pairs // 2)]
    study.base = [_score(number, 0.20 + hard[number // 2] + draw.gauss(0, 0.02)) for number in range(pairs)]
    for variant, effect in {"baseline": 0.0, **effects}.items():
        for seed in next(one.seeds for one in study.design.variants if one.name == variant):
            shift = effect + draw.gauss(0, noise)
            name = f"{variant}-seed{seed}"
            study.scores[name] = [
                _score(number, 0.28 + shift + hard[number // 2] + draw.gauss(0, 0.02)) for number in range(pairs)
            ]
            study.losses[name] = [
                _loss(number, 1.6 - 10 * shift + 2 * hard[number // 2] + other.gauss(0, 0.1)) for number in range(pairs)
            ]
            study.trials.append(_trial(name, variant, seed, shift, study))
    return study


def _score(number: int, rouge1: float) -> Score:
    return Score(
        id=f"pair-{number:03d}",
        group=f"group-{number // 2:03d}",
        metrics={metric: min(1.0, max(0.0, rouge1 * scale)) for metric, scale in SCALE.items()},
        prediction_words=40,
        reference_words=44,
        stopped="end_token",
        looping=False,
    )


def _loss(number: int, per_token: float) -> PairLoss:
    tokens = 50 + number % 7
    return PairLoss(
        id=f"validation-{number:03d}", group=f"seen-{number // 2:03d}", nats=per_token * tokens, tokens=tokens
    )


def _trial(name: str, variant: str, seed: int, shift: float, study: Study) -> TrialResult:
    draw = random.Random(name)
    steps = 120
    losses = [1.5 - 10 * shift + 1.4 * math.exp(-step / 30) + draw.gauss(0, 0.05) for step in range(1, steps + 1)]
    scores, rows = study.scores[name], study.losses[name]
    means = {metric: fmean(row.metrics[metric] for row in scores) for metric in METRICS}
    return TrialResult(
        name=name,
        variant=variant,
        seed=seed,
        status="completed",
        remark="",
        optimizer_steps=steps,
        real_tokens=123_456,
        final_loss=fmean(losses[-12:]),
        validation_loss=sum(row.nats for row in rows) / sum(row.tokens for row in rows),
        losses=tuple(enumerate(losses, 1)),
        validation=tuple((step, 1.6 - 10 * shift + math.exp(-step / 30)) for step in (0, 30, 60, 90, 120)),
        metrics={
            metric: Estimate(mean=mean, low=mean - 0.02, high=mean + 0.02, level=0.95, n=len(scores), groups=30)
            for metric, mean in means.items()
        },
        minutes=12.0 + draw.random(),
        peak_memory_bytes=1_800_000_000,
    )
