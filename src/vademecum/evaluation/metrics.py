"""One score per answer and metric: ROUGE-1, -2, -L and -Lsum (f-measure) of a prediction against its reference.

ROUGE counts the letters a-z and the digits 0-9 only. A reference without any of them cannot be scored and is an error.
"""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, TypeVar

from vademecum.config.sections import EvaluateConfig
from vademecum.errors import RunError
from vademecum.generation import is_looping
from vademecum.records import Prediction, QAPair, Score

_T = TypeVar("_T")

METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")

SENTENCE_RULES = "vademecum-1"
"""Name of the rules of `split_sentences`; a change of rule changes ROUGE-Lsum and so must change this name."""

_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*\s+(?=[\"'“‘(\[]*([^\W_]))")
_ABBREVIATIONS = frozenset(
    ("al", "approx", "ca", "cf", "dept", "dr", "e.g", "fig", "i.e", "mr", "mrs", "ms", "prof", "st", "vol", "vs")
)
_DOTTED_LETTERS = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]")


def split_sentences(text: str) -> list[str]:
    """Sentences of a text, for ROUGE-Lsum; they are never cut inside a word.

    A sentence ends at a line's end, or at `.`, `!` or `?` before white space and then something other than a small
    letter, unless the word before the stop is a known abbreviation (Dr., vs.) or dotted letters (U.S.).
    """
    sentences = []
    for line in text.splitlines():
        start = 0
        for end in _SENTENCE_END.finditer(line):
            before = line[start : end.start()].rsplit(maxsplit=1)
            word = before[-1].lstrip("\"'“‘([") if before else ""
            abbreviated = end[0].startswith(".") and (
                word.casefold() in _ABBREVIATIONS or _DOTTED_LETTERS.fullmatch(word) is not None
            )
            if end[1].islower() or abbreviated:
                continue
            sentences.append(line[start : end.end()].strip())
            start = end.end()
        sentences.append(line[start:].strip())
    return [sentence for sentence in sentences if sentence]


def rouge(reference: str, prediction: str, *, use_stemmer: bool = False) -> dict[str, float]:
    """The four f-measures of rouge-score, each in [0, 1]; an empty text scores 0. Sentences go on lines, for -Lsum."""
    scorer, _ = _package(use_stemmer)
    found = scorer.score("\n".join(split_sentences(reference)), "\n".join(split_sentences(prediction)))
    return {metric: float(found[metric].fmeasure) for metric in METRICS}


def score(
    predictions: Iterable[Prediction],
    pairs: Mapping[str, QAPair],
    groups: Mapping[str, str],
    config: EvaluateConfig,
    references: Mapping[str, Sequence[str]] | None = None,
) -> list[Score]:
    """Score every prediction against the pair of the same id; in the order of sorted ids, whatever the input's.

    `groups` maps pair id to split group. With `config.multi_reference` each metric is the best over the pair's own
    answer and `references[id]` (unset: `collect_references(pairs)`); otherwise `references` is not used. An empty
    prediction scores 0 and stays in. Lengths are words between white space; the reference's is its own answer's.

    Raises RunError for two predictions with one id, a prediction without pair or group, and a reference without any
    word that ROUGE can count.
    """
    more: Mapping[str, Sequence[str]] = {}
    if config.multi_reference:
        more = collect_references(pairs) if references is None else references
    rows: dict[str, Score] = {}
    for prediction in predictions:
        name = prediction.id
        if name in rows:
            raise RunError(f"two predictions have the id {name!r}", hint="answer again: `--force predict`")
        pair = _look_up(pairs, name, "reference")
        texts = dict.fromkeys([pair.answer, *more.get(name, ())])
        rows[name] = Score(
            id=name,
            group=_look_up(groups, name, "group"),
            metrics=_best(_scorable(texts, pair, config), prediction.text, config),
            prediction_words=len(prediction.text.split()),
            reference_words=len(pair.answer.split()),
            stopped=prediction.stopped,
            looping=prediction.stopped == "loop" or is_looping(prediction.text),
        )
    return [rows[name] for name in sorted(rows)]


def collect_references(pairs: Mapping[str, QAPair]) -> dict[str, tuple[str, ...]]:
    """Every distinct answer that the pairs give to a pair's question (case and white space aside), in order of id."""
    answers: dict[str, dict[str, None]] = {}
    for name in sorted(pairs):
        answers.setdefault(_same_question(pairs[name]), {})[pairs[name].answer] = None
    return {name: tuple(answers[_same_question(pair)]) for name, pair in pairs.items()}


def signature(config: EvaluateConfig, decoding: Mapping[str, object], n: int, split_digest: str) -> str:
    """One line that says how scores were made; scores are comparable where these lines are equal.

    `decoding` names the settings of generation, `n` counts the scored pairs, `split_digest` names the split.
    """
    parts = [
        f"rouge-score=={version('rouge-score')}",
        f"stemmer={'yes' if config.use_stemmer else 'no'}",
        f"sentences={SENTENCE_RULES}",
        f"references={'all' if config.multi_reference else 'one'}",
        *(f"{key}={decoding[key]}" for key in sorted(decoding)),
        f"n={n}",
        f"split={split_digest}",
    ]
    return "|".join(" ".join(part.split()) for part in parts)


@functools.cache
def _package(use_stemmer: bool) -> tuple[Any, Any]:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    return RougeScorer(list(METRICS), use_stemmer=use_stemmer), DefaultTokenizer(use_stemmer)


def _best(references: Iterable[str], prediction: str, config: EvaluateConfig) -> dict[str, float]:
    found = [rouge(reference, prediction, use_stemmer=config.use_stemmer) for reference in references]
    return {metric: max(scores[metric] for scores in found) for metric in METRICS}


def _look_up(table: Mapping[str, _T], name: str, what: str) -> _T:
    if name not in table:
        raise RunError(f"the prediction {name!r} has no {what}", hint="answer again: `--force predict`")
    return table[name]


def _scorable(texts: Iterable[str], pair: QAPair, config: EvaluateConfig) -> list[str]:
    _, tokenizer = _package(config.use_stemmer)
    kept = [text for text in texts if tokenizer.tokenize(text)]
    if pair.answer not in kept:
        raise RunError(
            f"the reference of {pair.id!r} has no word that ROUGE can count: {pair.answer[:60]!r}",
            hint="keep corpus.drop_empty_answers on; ROUGE sees a-z and 0-9 only, other scripts need another metric",
        )
    return kept


def _same_question(pair: QAPair) -> str:
    return " ".join(pair.question.casefold().split())
