"""report.json: the contract that other programs read. It holds no question and no answer of the corpus."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from vademecum.evaluation import compare, signature, slices, summarise
from vademecum.report.material import ReportMaterial
from vademecum.report.numbers import file_name

SCHEMA = "vademecum.report/1"
LOCAL = "a local directory"
"""The origin of a base model that came from this disk."""


def build_report(material: ReportMaterial) -> dict[str, Any]:
    """The whole verdict as plain JSON values. Shares are fractions of one; seconds, bytes and tokens say so."""
    config = material.config
    evaluate, seed = config.evaluate, config.seed
    return {
        "schema": SCHEMA,
        "run": _run(material),
        "config": _config(material),
        "corpus": {
            **{key: material.cleaning[key] for key in ("pairs_in", "pairs_kept", "rules", "missing_fields")},
            "source": file_name(material.cleaning["source"]),
            "remarks": list(material.cleaning.get("remarks", ())),  # which older runs have not kept
            "identifiers": {kind: found["count"] for kind, found in material.identifiers.items()},
        },
        "split": dict(material.leakage),
        "supervision": dict(material.supervision),
        "plan": {key: material.plan[key] for key in ("optimizer_steps", "full_steps", "ended_by", "rates", "measured")},
        "training": _training(material),
        "decoding": dict(material.decoding),
        "systems": {name: _system(name, material) for name in material.scores},
        "comparisons": [row.model_dump(mode="json") for row in compare(material.scores, evaluate, seed)],
        "slices": {
            field: slices(material.scores, material.pairs, field, evaluate, seed) for field in ("source", "qtype")
        },
        "signature": signature(
            evaluate,
            material.decoding["decoding"],
            n=len(material.pairs),
            split_digest=material.split_digest,
        ),
    }


def _config(material: ReportMaterial) -> dict[str, Any]:
    """The configuration, with the last part alone of what lies on this disk."""
    tree = material.config.model_dump(mode="json")
    tree["corpus"]["source"] = file_name(tree["corpus"]["source"])
    if material.base == LOCAL:
        tree["model"]["name"] = file_name(tree["model"]["name"])
    return tree


def _system(name: str, material: ReportMaterial) -> dict[str, Any]:
    found = summarise(material.scores[name], material.config.evaluate, material.config.seed)
    if name == "few-shot":
        found["examples_shown"] = fmean(len(row.shown) for row in material.predictions[name])
    return found


def _run(material: ReportMaterial) -> dict[str, Any]:
    entries = material.stages
    main_stage = "train" if "train" in entries else "plan"
    return {
        "name": material.name,
        "config_digest": material.config_digest,
        "command": material.command,
        "base": base_in_words(material.config.model.name, material.base),
        "base_name": base_name(material.config.model.name, material.base),
        "base_is_local": material.base == LOCAL,
        "base_digest": material.plan["base_digest"],
        "seed": material.config.seed,
        "versions": dict(entries[main_stage]["versions"]),
        "device": material.plan["device"],
        "dtype": material.plan["dtype"],
        "dtype_reason": material.plan["dtype_reason"],
        "seconds": {name: entry["seconds"] for name, entry in entries.items()},
        "predicted_seconds": dict(material.plan["predicted_seconds"]),
        "predicted_peak_bytes": dict(material.plan["predicted_peak_bytes"]),
        "probed_peak_bytes": _probed(material.plan["rates"]),
        "peak_memory_bytes": {name: entry["peak_memory_bytes"] for name, entry in entries.items()},
        "outputs": {name: dict(entry["outputs"]) for name, entry in entries.items()},
    }


def _probed(rates: Mapping[str, Any]) -> dict[str, int]:
    """What throw-away work in the largest shapes of the corpus held at most: training, and all that was tried."""
    return {"train": rates.get("training_peak_bytes", 0), "all": rates["peak_memory_bytes"]}


def base_name(model: str, origin: str) -> str:
    """The base model's name: a hub id, or the last part of a path, never the path."""
    if model == "smollm2-135m":
        return "SmolLM2-135M-Instruct"
    return file_name(model) if origin == LOCAL else model


def base_in_words(model: str, origin: str) -> str:
    """The base model called what it is: its name, and where the weights come from."""
    name = base_name(model, origin)
    return origin if name in origin else f"{name} ({origin})"


def _training(material: ReportMaterial) -> dict[str, Any] | None:
    if material.training is None:
        return None
    found = dict(material.training)
    if seconds := sitting_seconds(material):
        found["seconds"] = seconds
        found["real_tokens_per_second"] = found["real_tokens"] / seconds
    rows = [row for row in material.training_rows if row["step"]]
    found["examples"] = sum(row["examples"] for row in rows)
    found["first_loss"] = fmean(row["loss"] for row in rows[: max(1, len(rows) // 20)]) if rows else None
    return found


def sitting_seconds(material: ReportMaterial) -> float:
    """Seconds up to the end of the last optimizer step and its validation, over all sittings."""
    return float(material.timing_rows[-1]["seconds"]) if material.timing_rows else 0.0
