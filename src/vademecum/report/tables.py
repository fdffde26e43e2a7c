"""The tables of a report, from report.json and the material."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from vademecum.evaluation import METRICS
from vademecum.report import numbers
from vademecum.report.document import Table
from vademecum.report.material import ReportMaterial
from vademecum.report.sentences import corpus_name, steps_taken

RULES = {
    "collapse_whitespace": "white space collapsed (changed, none removed)",
    "empty_answer": "removed: empty answer",
    "empty_question": "removed: empty question",
    "junk_answer": "removed: junk answer",
    "unscorable_answer": "removed: answer without a-z or 0-9, which ROUGE cannot score",
    "question_repeat": "removed: answer only repeats the question",
    "duplicate": "removed: exact duplicate",
}
LEAKS = {
    "question": "the question",
    "answer": "the answer",
    "focus": "the focus",
    "document": "the document",
    "ngram13": "at least half of the answer's 13-word sequences",
}


def systems_table(report: Mapping[str, Any]) -> Table:
    """Systems by ROUGE, with intervals."""
    rows = tuple(
        (
            name,
            *(numbers.estimate(found["metrics"][metric]) for metric in METRICS),
            f"{found['n']:,}",
            f"{found['groups']:,}",
        )
        for name, found in report["systems"].items()
    )
    level = numbers.level(report["config"]["evaluate"]["level"])
    return Table(
        ("system", *map(numbers.metric, METRICS), "n", "groups"),
        rows,
        caption=f"Mean F-measure with its {level} interval from a bootstrap over groups; n counts test pairs.",
    )


def comparisons_table(report: Mapping[str, Any]) -> Table:
    """Every paired difference."""
    rows = tuple(
        (
            f"{row['system']} − {row['baseline']}",
            numbers.metric(row["metric"]),
            row["verdict"],
            numbers.signed_estimate(row["difference"]),
            numbers.p_value(row["p"]),
            numbers.p_value(row["p_holm"]),
            numbers.score(row["smallest_detectable"]),
        )
        for row in report["comparisons"]
    )
    return Table(
        ("comparison", "metric", "verdict", "difference", "p", "p after Holm", "smallest detectable"),
        rows,
        text_columns=3,
    )


def counts_table(report: Mapping[str, Any], material: ReportMaterial) -> Table:
    """From the corpus to what was trained, one count a line."""
    corpus, split, found = report["corpus"], report["split"], report["supervision"]
    steps = [("pairs in the corpus", corpus["pairs_in"])]
    steps += [(f"· {RULES.get(name, name)}", number) for name, number in corpus["rules"].items()]
    steps += [("pairs kept", corpus["pairs_kept"])]
    steps += [(f"· {name}", number) for name, number in split["counts"].items()]
    steps += [("test pairs answered", len(material.pairs))]
    if report["training"]:
        steps += [
            ("pairs trained on", found["pairs"]),
            ("rows", found["rows"]),
            ("tokens in the rows", found["tokens"]),
            ("· of them trained (answers and end tokens)", found["trained_tokens"]),
            ("tokens seen over the whole training", report["training"]["real_tokens"]),
        ]
    return Table(("step", "count"), tuple((name, numbers.count(number)) for name, number in steps), has_parts=True)


def identifiers_table(report: Mapping[str, Any]) -> Table:
    """What looks like a personal identifier, by kind; never the text itself."""
    rows = tuple(
        (kind.replace("_", " "), numbers.count(number)) for kind, number in report["corpus"]["identifiers"].items()
    )
    return Table(
        ("looks like", "places in questions and answers"),
        rows,
        caption="Counted in all pairs kept, by the form of the text alone: 0 is no proof that there is none.",
    )


def recipe_table(report: Mapping[str, Any], material: ReportMaterial) -> Table:
    """What was trained on what, and how."""
    config, training, run = material.config, report["training"], report["run"]
    train, lora = config.train, config.lora
    layers = lora.target_modules if isinstance(lora.target_modules, str) else ", ".join(lora.target_modules)
    rows = [
        ("base model", run["base"]),
        ("corpus", corpus_name(material)),
        (
            "computed on",
            f"{run['device']}, {run['dtype']} ({run['dtype_reason']}), quantization {config.model.quantization}",
        ),
    ]
    if training:
        batch, accumulated = train.batch_shape
        rows += [
            ("adapter", f"LoRA, r {lora.r}, lora_alpha {lora.lora_alpha}, dropout {lora.lora_dropout:g}, on {layers}"),
            ("rows", f"{train.batching}, max_length {train.max_length}, overlong answers {train.overlong}"),
            ("examples per step", f"{batch * accumulated} ({batch} × {accumulated})" + _shared(material.plan)),
            ("optimizer", f"{train.optim}, peak learning rate {train.learning_rate:g}, {train.lr_scheduler_type}, "
             f"{material.plan['warmup_steps']} warmup steps"),
            ("optimizer steps", steps_taken(material, training["optimizer_steps"])),
            ("padding", f"{numbers.share(training['padded_fraction'])} of {training['slots']:,} slots"),
            ("speed", _speed(report, material.plan.get("processes", 1))),
            ("loss", _losses(training)),
            ("status", training["status"]),
        ]  # fmt: skip
    rows.append(("seed", str(run["seed"])))
    return Table(("what", "value"), tuple(rows), text_columns=2)


def _shared(plan: Mapping[str, Any]) -> str:
    processes = plan.get("processes", 1)
    return f", shared by {processes} processes" if processes > 1 else ""


def _speed(report: Mapping[str, Any], processes: int) -> str:
    measured, planned = report["training"]["real_tokens_per_second"], report["plan"]["rates"]["train_tokens_per_second"]
    one = " in one process" if processes > 1 else ""
    source = "the probe had" if report["plan"]["measured"] else "forecast were"
    return f"{measured:,.0f} tokens/s with validation ({source} {planned:,.0f} without{one})"


def _losses(training: Mapping[str, Any]) -> str:
    if training["final_loss"] is None:
        return numbers.NONE
    found = f"{numbers.score(training['first_loss'])} at the start, {numbers.score(training['final_loss'])} at the end"
    if training["validation_loss"] is not None:
        found += f", {numbers.score(training['validation_loss'])} on validation pairs"
    return found


def losses_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Validation losses, each beside the mean training loss since the one before; at 0 the untrained model's."""
    lines, since = [], []
    for row in rows:
        since += [row["loss"]] if row["step"] else []
        if "validation_loss" in row:
            training = numbers.score(fmean(since)) if since else numbers.NONE
            lines.append((f"{row['step']:,}", training, numbers.score(row["validation_loss"])))
            since = []
    return Table(("up to step", "training loss", "validation loss"), tuple(lines))


def times_table(report: Mapping[str, Any]) -> Table:
    """Predicted and measured seconds per stage, and memory at its peak: predicted, found by the probe, and measured."""
    predicted, run = report["run"]["predicted_seconds"], report["run"]
    foreseen, probed = run["predicted_peak_bytes"], run["probed_peak_bytes"]
    parts = {"prepare and plan": ("prepare", "plan"), "train": ("train",), "choose the decoding": ("decoding",)}
    parts |= {f"answer and score: {name}": (f"predict/{name}", f"score/{name}") for name in report["systems"]}
    rows, total = [], [0.0, 0.0]
    for name, stages in parts.items():
        done = [stage for stage in stages if stage in run["seconds"]]
        if not done:
            continue
        plan = sum(predicted[key] for key in {name, *stages} & predicted.keys())
        took = sum(run["seconds"][stage] for stage in done)
        total = [total[0] + plan, total[1] + took]
        peak = numbers.gigabytes(max(run["peak_memory_bytes"][stage] for stage in done))
        expected = foreseen.get(done[0].partition("/")[0], 0) if plan else 0
        rows.append((name, *_times(plan, took), _bytes(expected), _bytes(probed.get(name, 0)), peak))
    highest, expected = max(run["peak_memory_bytes"].values()), max(foreseen.values())
    rows.append(("in all", *_times(*total), _bytes(expected), _bytes(probed["all"]), _bytes(highest)))
    head = ("stage", "time, predicted", "measured", "measured / predicted", "peak memory, predicted")
    return Table((*head, "in the probe", "measured"), tuple(rows))


def _bytes(count: int) -> str:
    return numbers.gigabytes(count) if count else numbers.NONE


def _times(predicted: float, measured: float) -> tuple[str, str, str]:
    if not predicted:
        return numbers.NONE, numbers.duration(measured), numbers.NONE
    return numbers.duration(predicted), numbers.duration(measured), f"{measured / predicted:.2f}"


def leakage_table(split: Mapping[str, Any], missing_fields: Sequence[str]) -> Table:
    """Shares of test pairs that share something with train."""
    leakage = split["leakage"]
    rows = tuple(
        (name, numbers.NOT_KNOWN, numbers.NONE)
        if key in missing_fields
        else (name, numbers.share(leakage[key]), f"{round(leakage[key] * leakage['n_test']):,}")
        for key, name in LEAKS.items()
    )
    return Table(("stands in train", "share of test pairs", "test pairs"), rows)


def supervision_table(found: Mapping[str, Any]) -> Table:
    """What the tensors of training hold."""
    pairs, rows = found["pairs"], found["rows"]
    bos = {found["bos_per_row_min"], found["bos_per_row_max"]}
    lines = (
        ("rows, of pairs", f"{rows:,} of {pairs:,}"),
        ("tokens", f"{found['tokens']:,}"),
        (
            "trained tokens",
            f"{found['trained_tokens']:,} ({numbers.share(found['trained_tokens'] / max(1, found['tokens']))})",
        ),
        ("longest row, of max_length", f"{found['longest_row']:,} of {found['max_length']:,}"),
        ("answers cut", f"{found['cut_answers']:,} ({numbers.share(found['cut_answers'] / pairs)})"),
        ("pairs dropped", f"{found['dropped']:,} ({numbers.share(found['dropped'] / pairs)})"),
        ("answers split into several rows", f"{found['split_answers']:,}"),
        ("rows whose end token is trained", numbers.share(found["end_token_trained"])),
        ("prompt tokens in the labels (must be 0)", f"{found['prompt_tokens_in_labels']:,}"),
        ("beginning-of-sequence tokens per row", "–".join(str(number) for number in sorted(bos))),
        ("the same when answering (must be equal)", str(found["bos_in_generation"])),
    )
    return Table(("audit", "found"), lines)


def behaviour_table(report: Mapping[str, Any]) -> Table:
    """How the answers end, and how long they are."""
    rows = tuple(
        (
            name,
            f"{found['length_ratio']:.2f}",
            *(numbers.share(found[key]) for key in ("stopped_by_length", "empty", "looping")),
        )
        for name, found in report["systems"].items()
    )
    return Table(("system", "length ratio", "stopped by length", "empty", "looping"), rows)


def trials_table(decoding: Mapping[str, Any]) -> Table | None:
    """Mean ROUGE of each repetition control that was tried; none where it was configured."""
    tried = decoding["chosen_on"]
    if not tried:
        return None
    rows = tuple(
        (size, *(numbers.score(found[system]) for system in tried["systems"]))
        for size, found in tried["mean_rouge"].items()
    )
    return Table(
        ("no_repeat_ngram_size", *tried["systems"]), rows, caption="Mean of the four ROUGE scores on validation pairs."
    )


def slices_table(rows: Sequence[Mapping[str, Any]], systems: Sequence[str]) -> Table:
    """ROUGE-1 of each system by the values of one field."""
    values: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        values.setdefault(row["value"], {})[row["system"]] = row
    lines = []
    for value, found in values.items():
        first = next(iter(found.values()))
        cells = [numbers.estimate(found[system]) if system in found else numbers.NONE for system in systems]
        lines.append((value, f"{first['n']:,}", f"{first['groups']:,}", *cells))
    field = {"source": "source", "qtype": "question type"}[rows[0]["field"]]
    return Table((field, "n", "groups", *systems), tuple(lines))


def digests_table(report: Mapping[str, Any], material: ReportMaterial) -> Table:
    """What tells this run from every other."""
    run = report["run"]
    rows = [
        ("configuration", run["config_digest"]),
        ("base model", run["base_digest"]),
        ("split", material.split_digest),
        *(
            (name, digest)
            for outputs in run["outputs"].values()
            for name, digest in outputs.items()
            if name.startswith("adapter")
        ),
    ]
    return Table(
        ("what", "SHA-256, first digits"), tuple((name, numbers.digest(value)) for name, value in rows), text_columns=2
    )


def versions_table(versions: Mapping[str, str]) -> Table:
    """The libraries that did the work."""
    return Table(("library", "version"), tuple(versions.items()), text_columns=2)
