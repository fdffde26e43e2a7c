"""The road: which stages a configuration has, and walking them in order."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from vademecum.config import RunConfig
from vademecum.planning import Plan
from vademecum.runs import Run
from vademecum.stages.answer import decoding_stage, predict_stage
from vademecum.stages.plan import PLAN, forecast
from vademecum.stages.prepare import PREPARE, prepare
from vademecum.stages.road import Observer, Road, Silence, Stage, seconds_spent, walk
from vademecum.stages.sizing import too_few_groups
from vademecum.stages.together import is_begun_alone, train_runs_together
from vademecum.stages.train import TRAIN, check_trained, help_train
from vademecum.stages.verdict import compare_runs, differing_settings, render_again, report_stage, score_stage

__all__ = [
    "Observer",
    "Road",
    "Silence",
    "Stage",
    "compare_runs",
    "differing_settings",
    "forecast_run",
    "is_begun_alone",
    "render_again",
    "run_road",
    "run_shared",
    "seconds_spent",
    "stages_of",
    "too_few_groups",
    "train_runs_together",
]


def stages_of(config: RunConfig) -> list[Stage]:
    """The stages of a run, in the order in which they are walked."""
    systems = config.generate.systems
    tuned = "tuned" in systems
    return [
        PREPARE,
        PLAN,
        *([TRAIN] if tuned else []),
        decoding_stage(tuned),
        *(predict_stage(system) for system in systems),
        *(score_stage(system) for system in systems),
        report_stage(systems),
    ]


def run_road(road: Road, *, until: str | None = None, force: Iterable[str] = ()) -> None:
    """Walk from the corpus to the verdict; only what is missing or out of date is done.

    Of several processes rank 0 walks, and the others help it to train.

    Raises:
        UntrainedError: all is done but for the tuned system, because training diverged or changed nothing.
        StaleError: finished training or predictions would be overwritten without being named in `force`.
        StoppedError: `road.stop` was asked to; walking again goes on from there.
        VademecumError: any stage's own.
    """
    if not road.ranks.lead:
        help_train(road)
        return
    stages = stages_of(road.config)
    try:
        walk(road, stages, until=until, force=force)
    finally:
        road.ranks.dismiss()
    if TRAIN in stages and until not in ("prepare", "plan"):
        check_trained(road.run)


def run_shared(road: Road, *, until: str | None = None) -> None:
    """Do of a run what does not depend on its training, so that others may reuse it: all but the tuned system.

    Raises:
        VademecumError: any stage's own.
    """
    systems = [system for system in road.config.generate.systems if system != "tuned"]
    stages = [
        PREPARE,
        PLAN,
        decoding_stage(tuned=False),
        *(predict_stage(system) for system in systems),
        *(score_stage(system) for system in systems),
    ]
    walk(road, stages, until=until)


def forecast_run(config: RunConfig, observer: Observer, *, offline: bool) -> Plan:
    """What a run would cost here, from its corpus and the base model's configuration; no weights, no run directory.

    Raises:
        ConfigError: it does not fit into the memory or the minutes; says what would.
        VademecumError: the corpus, the configuration or the tokenizer cannot be had.
    """
    with tempfile.TemporaryDirectory() as folder:
        road = Road(Run.create(Path(folder)), config, observer, offline)
        prepare(road, Path(folder))
        return forecast(road)
