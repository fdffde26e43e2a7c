"""The adapter's README.md: a Hugging Face model card, filled in from the run."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from vademecum.prompts import build_messages
from vademecum.report import tables
from vademecum.report.markdown import escape, render_block
from vademecum.report.material import ReportMaterial
from vademecum.report.sentences import NOT_ADVICE, corpus_name, limits, repetition_control, statements

HUB_IDS = {"SmolLM2-135M-Instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Base models that Vademecum takes from elsewhere, and where the hub has them."""
MEDQUAD_LICENCE = (
    "MedQuAD is licensed under CC BY 4.0: credit Ben Abacha and Demner-Fushman, A question-entailment approach to "
    "question answering, BMC Bioinformatics 20:511, 2019."
)


def render_card(report: Mapping[str, Any], material: ReportMaterial) -> str:
    """The card of a trained adapter; it holds no text of the corpus."""
    base = _base_id(report)
    parts = [
        _front_matter(base, material),
        f"# {escape(material.name)}",
        f"A LoRA adapter for {escape(report['run']['base'])}, trained to answer medical questions on "
        f"{escape(corpus_name(material))} and measured against its base model.",
        f"**{NOT_ADVICE} Do not use it to decide about anybody's health.**",
        *_scores(report),
        "## Data",
        *render_block(tables.counts_table(report, material)),
        "## Recipe",
        *render_block(tables.recipe_table(report, material)),
        "## How to load it",
        *_loading(base, report, material),
        "## Limits",
        "\n".join(f"- {escape(item)}" for item in limits(report, material)),
        "## Licence",
        f"The adapter builds on the base model, whose licence applies to it. {_corpus_licence(material)}",
        "## Provenance",
        *render_block(tables.digests_table(report, material)),
        f"Made with Vademecum {report['run']['versions'].get('vademecum', '')}. Scores: `{report['signature']}`.",
    ]
    return "\n\n".join(parts) + "\n"


def _base_id(report: Mapping[str, Any]) -> str:
    name: str = report["run"]["base_name"]
    return HUB_IDS.get(name, name)


def _front_matter(base: str, material: ReportMaterial) -> str:
    """YAML; quoted as JSON, which is YAML too, so that no name can break out of its line."""
    fields: dict[str, Any] = {
        "base_model": base,
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "language": ["en"],
        "license": "other",
        "license_name": "base-model-and-corpus",
        "datasets": [_dataset(material)],
        "tags": ["lora", "medical", "question-answering", "vademecum"],
    }
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _dataset(material: ReportMaterial) -> str:
    """A name that the hub takes for a data set's: letters, digits, dashes."""
    source = str(material.cleaning["source"])
    if source in ("sample", "medquad"):
        return {"sample": "vademecum-sample", "medquad": "medquad"}[source]
    return re.sub(r"[^a-z0-9]+", "-", corpus_name(material).lower()).strip("-") or "corpus"


def _corpus_licence(material: ReportMaterial) -> str:
    if material.cleaning["source"] == "sample":
        return "The sample corpus is CC0."
    if _dataset(material).startswith("medquad"):
        return MEDQUAD_LICENCE
    return "The licence of the corpus is not recorded: find it out before you pass this adapter on."


def _scores(report: Mapping[str, Any]) -> Iterator[str]:
    yield "## Scores"
    rows = [row for row in statements(report) if row.versus.startswith("tuned against")]
    if rows:
        yield "\n".join(f"- **{row.versus}: {row.verdict}.** {escape(row.text)}" for row in rows)
    yield from render_block(tables.systems_table(report))
    yield (
        "base: the base model alone, same prompt and decoding. copy: the answer of the nearest train question. "
        f"Test split: {report['split']['strategy']}."
    )


def _loading(base: str, report: Mapping[str, Any], material: ReportMaterial) -> Iterator[str]:
    yield f"```python\n{_snippet(base, report, material)}```"
    yield (
        f"{escape(repetition_control(report['decoding']))} `no_repeat_ngram_size` in transformers "
        "counts the prompt as well; Vademecum counts the answer alone, so answers can differ a little."
    )
    if "dequantized" in report["run"]["base"]:
        yield (
            "The adapter was trained on weights dequantized from Q4_1, which differ a little from those on the hub: "
            "its scores there were not measured."
        )


def _snippet(base: str, report: Mapping[str, Any], material: ReportMaterial) -> str:
    """Python that asks the adapter one question with transformers and PEFT alone."""
    decoding, prompt = report["decoding"]["decoding"], material.config.prompt
    asked = build_messages("What are the symptoms of gout?", prompt)
    messages = "".join(f"    {json.dumps(message, ensure_ascii=False)},\n" for message in asked)
    place = f"path/to/{base}" if report["run"]["base_is_local"] else base
    sampling = "do_sample=False"
    if decoding["temperature"]:
        sampling = f"do_sample=True, temperature={decoding['temperature']}, top_p={decoding['top_p']}"
    bos = (
        "if ids[0] != tokenizer.bos_token_id:  # some chat templates leave it to the tokenizer\n"
        "    ids.insert(0, tokenizer.bos_token_id)\n"
    )
    return (
        "import torch\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"base = {json.dumps(place, ensure_ascii=False)}\n"
        "tokenizer = AutoTokenizer.from_pretrained(base)\n"
        'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), "path/to/this/adapter")\n'
        f"messages = [\n{messages}]\n"
        "ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)\n"
        f"{bos if report['supervision']['bos_in_generation'] else ''}"
        "answer = model.generate(\n"
        f"    input_ids=torch.tensor([ids]), max_new_tokens={decoding['max_new_tokens']}, {sampling},\n"
        f"    no_repeat_ngram_size={decoding['no_repeat_ngram_size']},\n"
        ")\n"
        "print(tokenizer.decode(answer[0, len(ids):], skip_special_tokens=True))\n"
    )
