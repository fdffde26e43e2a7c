"""The plain sentences of a report. Words of judgement come from the verdicts alone."""

from collections.abc import Iterator, Mapping
from typing import Any

from vademecum.evaluation.compare import CONFIRMATORY, is_for_want_of_correction
from vademecum.report import numbers
from vademecum.report.document import Statement
from vademecum.report.material import ReportMaterial
from vademecum.training import NOT_REPEATED, Adaptation

NOT_ADVICE = "A research result, not medical advice."


def statements(report: Mapping[str, Any]) -> tuple[Statement, ...]:
    """One verdict in ROUGE-1 for each comparison, those that the run was made for first."""
    rows = [row for row in report["comparisons"] if row["metric"] == "rouge1"]
    found = [
        Statement(
            verdict=row["verdict"],
            versus=f"{row['system']} against {row['baseline']}",
            text=_sentence(row, report["config"]["evaluate"]["min_groups"]),
            confirmatory=(row["baseline"], row["system"]) in CONFIRMATORY,
        )
        for row in rows
    ]
    return tuple(sorted(found, key=lambda row: not row.confirmatory))


def _sentence(row: Mapping[str, Any], min_groups: int) -> str:
    found, who = row["difference"], f"{row['system']} scores"
    interval = f"{numbers.difference(found['low'])} to {numbers.difference(found['high'])}"
    numbers_behind = f"({numbers.level(found['level'])} interval {interval}, p after Holm {_equals(row['p_holm'])})"
    size = numbers.score(abs(found["mean"]))
    if row["verdict"] == "better":
        return f"{who} {size} higher in ROUGE-1 than {row['baseline']} {numbers_behind}."
    if row["verdict"] == "worse":
        return f"{who} {size} lower in ROUGE-1 than {row['baseline']} {numbers_behind}."
    measured = f"The measured difference in ROUGE-1 is {numbers.difference(found['mean'])} {numbers_behind}."
    if found["groups"] < min_groups:
        return (
            f"{measured} {numbers.counted(found['groups'], 'group')} cannot carry a verdict; {min_groups} are needed."
        )
    if is_for_want_of_correction(found["mean"], row["smallest_detectable"], row["p"], row["p_holm"]):
        return f"{measured} After correction for the number of comparisons, that is not enough for a verdict."
    return (
        f"{measured} With these {numbers.counted(found['n'], 'pair')} in {numbers.counted(found['groups'], 'group')}, "
        f"a difference below {numbers.score(row['smallest_detectable'])} could not be detected reliably."
    )


def _equals(p: float) -> str:
    written = numbers.p_value(p)
    return written if written.startswith("<") else f"= {written}"


def why_untrained(training: Mapping[str, Any] | None) -> str:
    """Why a run that trained has no tuned system; empty where it has one, or did not train."""
    if training is None or training["status"] == "completed":
        return ""
    if training["status"] == "diverged":
        return (
            f"Training diverged after {numbers.counted(training['optimizer_steps'], 'optimizer step')}: "
            f"{training['remark']}. No adapter was saved, and the tuned model has no scores."
        )
    return (
        f"Training changed nothing: {training['remark']}. The tuned model would be the base model, and was not scored."
    )


def changes(training: Mapping[str, Any] | None) -> str:
    """How training was adapted to the machine while it ran; empty where it was not."""
    if training is None or not training["events"]:
        return ""
    found = [Adaptation.model_validate(event).in_words() for event in training["events"]]
    return f"{NOT_REPEATED} What was changed: {'; '.join(found)}."


def deck(report: Mapping[str, Any], material: ReportMaterial) -> str:
    """What was done, in one sentence: stands under the title."""
    systems, strategy = ", ".join(report["systems"]), report["split"]["strategy"]
    how = ", adapted with LoRA on" if "tuned" in report["systems"] else " on"
    return (
        f"{report['run']['base']}{how} {corpus_name(material)}. "
        f"Systems compared: {systems}, on {_tested(report)} of the {strategy} split."
    )


def _tested(report: Mapping[str, Any]) -> str:
    asked = next(iter(report["systems"].values()))
    return f"{numbers.counted(asked['n'], 'test pair')} in {numbers.counted(asked['groups'], 'group')}"


def corpus_name(material: ReportMaterial) -> str:
    """The corpus in words; of a path only the last part, for a report is passed on."""
    source = str(material.cleaning["source"])
    return {"sample": "Vademecum's bundled sample corpus", "medquad": "MedQuAD"}.get(source, numbers.file_name(source))


def repetition_control(decoding: Mapping[str, Any]) -> str:
    """What keeps answers from looping, and how that was chosen."""
    size, chosen_on = decoding["decoding"]["no_repeat_ngram_size"], decoding["chosen_on"]
    rule = f"no {size} tokens in a row are written twice in an answer" if size else "none"
    if not chosen_on:
        return f"Repetition control: {rule} (no_repeat_ngram_size = {size}), as configured, the same for every system."
    return (
        f"Repetition control: {rule} (no_repeat_ngram_size = {size}), the same for every system. It was chosen on "
        f"{numbers.counted(chosen_on['validation_pairs'], 'validation pair')}, by the best mean over the four ROUGE "
        f"scores and over {' and '.join(chosen_on['systems'])}; the test pairs were not looked at."
    )


def steps_taken(material: ReportMaterial, done: int) -> str:
    """How many optimizer steps there were, and what decided it."""
    plan, train = material.plan, material.config.train
    full = f"all epochs would be {plan['full_steps']:,}"
    reason = {
        "epochs": f"{train.num_train_epochs:g} epochs",
        "budget": f"the budget of {material.config.budget.minutes or 0:g} minutes; {full}",
        "max_steps": f"train.max_steps; {full}",
    }[plan["ended_by"]]
    planned = f"{plan['optimizer_steps']:,} ({reason})"
    return planned if done == plan["optimizer_steps"] else f"{done:,}; planned were {planned}"


def limits(report: Mapping[str, Any], material: ReportMaterial) -> tuple[str, ...]:
    """What the numbers do not say: what holds of every run, and what this run's own counts add."""
    return (
        "ROUGE measures the overlap of words with a reference answer, not whether an answer is correct, complete or "
        "safe.",
        f"One corpus, one split and one seed ({report['run']['seed']}). The intervals cover the choice of test "
        "questions, not the chance in training: another seed gives another adapter.",
        f"{_tested(report)}: pairs of one group are alike, so only the groups count as independent.",
        *_own_limits(report, material),
        "The slices describe; no test was made on them, and small ones vary widely.",
        f"{NOT_ADVICE} No clinician has judged these answers; do not act on them.",
    )


def _own_limits(report: Mapping[str, Any], material: ReportMaterial) -> Iterator[str]:
    split, supervision = report["split"], report["supervision"]
    if adapted := changes(report["training"]):
        yield adapted
    if split["strategy"] == "random":
        yield (
            "The split is random: relatives of test pairs stand in train (see the leakage audit), which favours every "
            "system that learns or copies from train. A grouped split gives the fairer numbers."
        )
    lost = supervision["cut_answers"] + supervision["dropped"]
    if report["training"] and lost:
        yield (
            f"{numbers.counted(supervision['cut_answers'], 'train answer')} lost the end and "
            f"{supervision['dropped']:,} dropped out at {supervision['max_length']} tokens."
        )
    if "qtype" in report["corpus"]["missing_fields"] and {"copy", "few-shot"} & report["systems"].keys():
        yield "The corpus has no question types: copy and few-shot looked in all of train for the nearest question."
    held, answered = material.config.model.quantization, material.config.generate.quantization
    if answered != "none":
        yield f"All systems answered with {answered} weights; unquantized ones may answer better."
    elif held != "none":
        yield f"The adapter was trained on {held} weights; all systems answered unquantized."
