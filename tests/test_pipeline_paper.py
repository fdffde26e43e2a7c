"""The whole road in other forms: the paper's recipe, a table without question types, quantized weights, no training."""

import json
import zipfile
from html import escape
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.listener import Listener, go

from vademecum.config import ModelConfig, RunConfig, load_config
from vademecum.errors import ConfigError, RunError
from vademecum.models import is_quantized, load_adapter, load_base
from vademecum.planning import Plan
from vademecum.runs import Run
from vademecum.stages import Road
from vademecum.stages.answer import load_system
from vademecum.stages.material import Base
from vademecum.testing import tiny_pairs

PAIRS = 90
QUICK = (
    "model.device=cpu", "model.dtype=float32", "train.eval_pairs=4", "train.max_cut_share=1.0",
    "generate.max_new_tokens=8", "generate.test_pairs=8", "evaluate.resamples=100",
)  # fmt: skip


def build_medquad(path: Path) -> Path:
    """A zip in MedQuAD's shape: made-up pairs, one document to a focus."""
    documents: dict[str, list[str]] = {}
    heads: dict[str, str] = {}
    for pair in tiny_pairs(PAIRS):
        heads[pair.document] = (
            f'<Document id="1" source="{pair.source}" url="{pair.url}"><Focus>{escape(pair.focus)}</Focus>'
            f"<FocusAnnotations><UMLS><CUIs><CUI>{pair.cuis[0]}</CUI></CUIs>"
            f"<SemanticGroup>{pair.semantic_group}</SemanticGroup></UMLS></FocusAnnotations><QAPairs>"
        )
        rows = documents.setdefault(pair.document, [])
        question = f'<Question qid="1-{len(rows) + 1}" qtype="{pair.qtype}">{escape(pair.question)}</Question>'
        rows.append(f'<QAPair pid="{len(rows) + 1}">{question}<Answer>{escape(pair.answer)}</Answer></QAPair>')
    with zipfile.ZipFile(path, "w") as archive:
        for name, rows in documents.items():
            content = f"{heads[name]}{''.join(rows)}</QAPairs></Document>"
            archive.writestr(f"MedQuAD-master/1_Tiny_QA/{Path(name).name}.xml", content)
    return path


def paper_config(corpus: Path, checkpoint: Path, *more: str) -> RunConfig:
    settings = [f"corpus.source={corpus}", f"model.name={checkpoint}", "train.max_steps=4", "train.warmup_steps=1"]
    return load_config("paper", [*settings, *QUICK, *more])


def read_report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_medquad(tmp_path_factory.mktemp("corpus") / "MedQuAD-master.zip")


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory, corpus: Path, tinyllama_lookalike: Path) -> Path:
    folder = tmp_path_factory.mktemp("paper") / "run"
    go(folder, paper_config(corpus, tinyllama_lookalike))
    return folder


def test_the_papers_recipe_runs_to_the_end(paper: Path, corpus: Path, tinyllama_lookalike: Path) -> None:
    report = read_report(paper)
    assert report["corpus"]["pairs_in"] == report["corpus"]["pairs_kept"] == PAIRS
    assert report["split"]["strategy"] == "random"
    assert report["split"]["counts"]["excluded"] == 0
    assert report["split"]["leakage"]["focus"] > 0.5
    training = report["training"]
    assert (training["status"], training["optimizer_steps"]) == ("completed", 4)
    assert training["slots"] == 4 * 4 * 512  # steps x accumulation x padded length, one example at a time
    assert training["padded_fraction"] == pytest.approx(1 - training["real_tokens"] / training["slots"])
    assert report["supervision"]["prompt_tokens_in_labels"] == 0
    assert report["systems"]["tuned"]["n"] == 8
    resolved = paper_config(corpus, tinyllama_lookalike)
    assert resolved.train.gradient_checkpointing
    adapter = json.loads((paper / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (adapter["r"], adapter["lora_alpha"], adapter["lora_dropout"]) == (8, 16, 0.1)


def test_rows_begin_as_generation_does_and_end_with_the_end_token(paper: Path) -> None:
    audit = json.loads((paper / "supervision.json").read_text(encoding="utf-8"))
    assert (audit["bos_per_row_min"], audit["bos_per_row_max"], audit["bos_in_generation"]) == (1, 1, 1)
    assert (audit["end_token_trained"], audit["cut_answers"], audit["dropped"]) == (1.0, 0, 0)


def test_the_adapter_loads_with_plain_peft_and_says_the_same(paper: Path, tinyllama_lookalike: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    row = torch.tensor([[1, 300, 301, 302, 303]])
    plain = AutoModelForCausalLM.from_pretrained(tinyllama_lookalike, dtype="float32")
    with torch.inference_mode():
        base = plain(input_ids=row).logits
        want = PeftModel.from_pretrained(plain, str(paper / "adapter")).eval()(input_ids=row).logits
        ours = load_base(tinyllama_lookalike, ModelConfig(), dtype="float32", device="cpu")
        found = load_adapter(ours, paper / "adapter")(input_ids=row).logits
    assert torch.equal(found, want)
    assert not torch.allclose(base, want, atol=1e-4)


def test_a_table_without_question_types_runs_to_the_end_and_says_what_falls_away(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    table = tmp_path / "plain.csv"
    rows = [f'"{pair.question}","{pair.answer}","{pair.focus}",Clinic' for pair in tiny_pairs(PAIRS)]
    table.write_text("\n".join(["question,answer,focus_area,source", *rows]) + "\n", encoding="utf-8")
    settings = [f"corpus.source={table}", f"model.name={tiny_checkpoint}", "train.max_steps=4", "budget.minutes=none"]
    listener = go(tmp_path / "run", load_config("demo", [*settings, *QUICK, "generate.validation_pairs=2"]))
    said = "\n".join(listener.said)
    assert "the corpus has no qtype, document, cuis: what goes by them falls away" in said
    assert {line.partition(":")[0] for line in listener.said if "question type" in line} == {"copy", "few-shot"}
    report = read_report(tmp_path / "run")
    assert [row["value"] for row in report["slices"]["source"]] == ["Clinic"] * 4
    assert not report["slices"].get("qtype")
    assert set(report["systems"]) == {"base", "few-shot", "copy", "tuned"}


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_quantized_base_is_trained_and_answers_merged_in_full_precision(
    tmp_path: Path, corpus: Path, tinyllama_lookalike: Path, quantization: str
) -> None:
    pytest.importorskip("bitsandbytes")
    config = paper_config(corpus, tinyllama_lookalike, f"model.quantization={quantization}", "train.max_length=128")
    go(tmp_path / "run", config)
    report = read_report(tmp_path / "run")
    assert report["training"]["status"] == "completed"
    assert report["systems"]["tuned"]["n"] == 8
    road = Road(Run.open(tmp_path / "run"), config, Listener())
    base = Base.locate(road)
    assert is_quantized(base.load(config.model, device="cpu", dtype="float32"))
    plan = road.run.read_record("plan.json", Plan)
    assert not any(is_quantized(load_system(road, base, plan, system)) for system in ("base", "tuned"))


def test_systems_without_training_need_no_adapter(tmp_path: Path, corpus: Path, tinyllama_lookalike: Path) -> None:
    listener = go(tmp_path / "run", paper_config(corpus, tinyllama_lookalike, 'generate.systems=["base", "copy"]'))
    assert "train" not in listener.worked
    report = read_report(tmp_path / "run")
    assert report["training"] is None
    assert set(report["systems"]) == {"base", "copy"}
    assert not (tmp_path / "run" / "adapter").exists()
    # Asked for afterwards, training gets a plan of its own.
    go(tmp_path / "run", paper_config(corpus, tinyllama_lookalike), force=["decoding"])
    report = read_report(tmp_path / "run")
    assert report["training"]["optimizer_steps"] == report["plan"]["optimizer_steps"] > 0


def test_another_base_under_the_same_name_is_refused(tmp_path: Path, corpus: Path, tinyllama_lookalike: Path) -> None:
    config = paper_config(corpus, tinyllama_lookalike)
    go(tmp_path / "run", config, until="plan")
    plan = tmp_path / "run" / "plan.json"
    run = Run.open(tmp_path / "run")
    run.write_json("plan.json", {**json.loads(plan.read_text(encoding="utf-8")), "base_digest": "another"})
    entry = run.entries()["plan"]
    run.complete("plan", entry.model_copy(update={"outputs": {**entry.outputs, "plan.json": run.digest("plan.json")}}))
    with pytest.raises(RunError, match="another one than when the run was planned"):
        go(tmp_path / "run", config)


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("train.optim=adamw", "'adamw' is no optimizer"),
        ('train.report_to=["trackio"]', "'trackio', which is not installed"),
        ("model.device=cuda", "'cuda' is not on this machine"),
    ],
)
def test_what_would_fail_after_minutes_is_refused_before(
    tmp_path: Path, corpus: Path, tinyllama_lookalike: Path, setting: str, found: str
) -> None:
    if "cuda" in setting and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ConfigError, match=found):
        go(tmp_path / "run", paper_config(corpus, tinyllama_lookalike, setting), until="plan")
