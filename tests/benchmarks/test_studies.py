"""The studies that are declared beside the benchmarks: they can be laid out, and the one of batching works."""

import json
from pathlib import Path

import pytest
from tests.listener import Listener

from vademecum.study import Setting, load_study, make_executor, run_study
from vademecum.study.design import lay_out_design

STUDIES = Path(__file__).parents[2] / "benchmarks" / "studies"
BATCHING = STUDIES / "batching.toml"
TINY = (
    "model.device=cpu", "model.dtype=float32", "train.max_length=512", "train.max_cut_share=1.0", "train.eval_pairs=8",
    "train.max_pairs=48", "train.gradient_checkpointing=false", "generate.batch_size=4", "evaluate.resamples=100",
)  # fmt: skip


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.toml")), ids=lambda file: file.stem)
def test_a_declared_study_can_be_laid_out(file: Path) -> None:
    study = load_study(file)
    trials = lay_out_design(study).trials()
    assert len({trial.name for trial in trials}) == len(trials) > len(study.baseline_seeds)


def test_the_study_of_batching_varies_nothing_else() -> None:
    design = lay_out_design(load_study(BATCHING))
    base, *others = (next(trial for trial in design.trials() if trial.variant == one.name) for one in design.variants)
    assert base.config.train.batching == "grouped"
    assert {trial.config.train.batching for trial in others} == {"padded", "packed"}
    for trial in others:
        same = {"batching": "grouped", "per_device_train_batch_size": base.config.train.per_device_train_batch_size}
        train = trial.config.train.model_copy(update=same)
        assert trial.config.model_copy(update={"train": train}) == base.config
    compared = {design.aliases[name] for claim in design.study.claims for name in (claim.variant, claim.against)}
    assert compared == {variant.name for variant in design.variants}
    assert {claim.metric for claim in design.study.claims} == {"validation_loss"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_study_of_batching_compares_losses_after_equal_tokens(tiny_checkpoint: Path, tmp_path: Path) -> None:
    study = load_study(BATCHING, [f"model.name={tiny_checkpoint}", *TINY, "baseline_seeds=[0, 1]", "seeds=[0]"])
    folder = tmp_path / "study"
    run_study(study, folder, Setting(make_executor("local"), Listener(), offline=True, at_once=2))
    found = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    assert {row["status"] for row in found["trials"]} == {"completed"}
    tokens = {row["variant"]: row["real_tokens"] for row in found["trials"]}
    assert tokens["baseline"] == tokens["batching=padded"]
    assert tokens["batching=packed+2"] == pytest.approx(tokens["baseline"], rel=0.1)  # its last step is filled up
    for claim in found["claims"]:
        assert claim["metric"] == "validation_loss"
        assert claim["low"] < claim["difference"] < claim["high"]
        assert claim["against_seeds"] == 1
