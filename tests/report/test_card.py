"""The adapter's model card: filled in, and its snippet runs."""

import contextlib
import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import pytest

from vademecum.config import ModelConfig, PromptConfig
from vademecum.report import ReportMaterial, build_report, render_card


def front_matter(card: str) -> dict[str, Any]:
    from huggingface_hub import ModelCard

    return dict(ModelCard(card).data.to_dict())  # type: ignore[no-untyped-call]


def snippet(card: str) -> str:
    found = re.search(r"```python\n(.*?\n)```", card, re.DOTALL)
    assert found
    return found[1]


def test_the_front_matter_is_what_the_hub_reads(report: dict[str, Any], material: ReportMaterial) -> None:
    found = front_matter(render_card(report, material))
    assert found["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert found["library_name"] == "peft"
    assert found["license"] == "other"
    assert found["datasets"] == ["vademecum-sample"]
    assert {"lora", "medical", "question-answering"} <= set(found["tags"])


def test_a_name_cannot_break_out_of_the_front_matter(material: ReportMaterial) -> None:
    config = material.config.model_copy(update={"model": ModelConfig(name='x/y"\n---\nlicense: mit')})
    hostile = dataclasses.replace(material, config=config, base="Hugging Face hub, revision main")
    assert front_matter(render_card(build_report(hostile), hostile))["license"] == "other"


def test_the_card_says_what_came_out_and_what_it_is_not(report: dict[str, Any], material: ReportMaterial) -> None:
    card = render_card(report, material)
    for system in ("base", "copy", "tuned"):
        found = report["systems"][system]["metrics"]["rouge1"]
        assert f"| {system} | {found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}] |" in card
    for words in ("not medical advice", "dequantized from Q4_1", "pairs trained on | 222 |", "CC0", "## Limits"):
        assert words in card
    assert "zyxwv-corpus-marker" not in card
    assert "More Information Needed" not in card


@pytest.mark.parametrize(
    ("source", "dataset", "licence"),
    [
        ("medquad", "medquad", "CC BY 4.0"),
        ("/data/MedQuAD-master.zip", "medquad-master-zip", "CC BY 4.0"),
        ("/home/someone/My Pairs.csv", "my-pairs-csv", "not recorded"),
    ],
)
def test_the_licence_of_the_corpus_is_told(material: ReportMaterial, source: str, dataset: str, licence: str) -> None:
    other = dataclasses.replace(material, cleaning={**material.cleaning, "source": source})
    card = render_card(build_report(other), other)
    assert front_matter(card)["datasets"] == [dataset]
    assert licence in card
    assert "/home/" not in card and "/data/" not in card


def test_quotes_and_braces_in_a_prompt_leave_the_snippet_whole(material: ReportMaterial) -> None:
    prompt = PromptConfig(system='Say "no"\n```\nand {stop}', question="Q: {question}\n'A':")
    other = dataclasses.replace(material, config=material.config.model_copy(update={"prompt": prompt}))
    code = snippet(render_card(build_report(other), other))
    compile(code, "card", "exec")
    assert "Q: What are the symptoms of gout?" in code


# PEFT's own use of a deprecated name; plain PEFT does not silence it.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_snippet_asks_in_the_form_that_was_trained(material: ReportMaterial) -> None:
    prompt = PromptConfig(system="Be brief.", instruction="Answer as a doctor.", question="Q: {question}")
    other = dataclasses.replace(material, config=material.config.model_copy(update={"prompt": prompt}))
    code = snippet(render_card(build_report(other), other))
    assert "Be brief." in code
    assert r"Answer as a doctor.\n\nQ: What are the symptoms of gout?" in code


def test_the_snippet_loads_an_adapter_with_plain_peft(
    material: ReportMaterial, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    config = material.config.model_copy(update={"model": ModelConfig(name="/somewhere/tiny")})
    local = dataclasses.replace(material, config=config, base="a local directory")
    code = snippet(render_card(build_report(local), local))
    code = code.replace("path/to/tiny", str(tiny_checkpoint)).replace("path/to/this/adapter", str(tmp_path))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code.replace("max_new_tokens=96", "max_new_tokens=4"), "card", "exec"), {})
    assert printed.getvalue().strip()
