"""From a pair to what the model is trained on, and the audit of exactly that.

A row is the prompt, the answer and the end token. Only the answer and its end token are trained:

    input_ids   <|im_start|> user … <|im_start|> assistant \\n   Gout is a form of arthritis .   <|im_end|>
    labels      -100 … -100                                      Gout is a form of arthritis .   <|im_end|>
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from vademecum.config.sections import PromptConfig, TrainConfig
from vademecum.errors import AuditError
from vademecum.prompts import bos_count, build_messages, encode_answer, encode_prompt, end_token_id
from vademecum.records import QAPair, Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a token that is not trained; PyTorch's cross entropy skips it."""
MIN_ANSWER_TOKENS = 8
"""A prompt that leaves an overlong answer less room than this is dropped."""


@dataclass(frozen=True, slots=True)
class Example:
    """A row of training: token ids and, for each, itself or -100 as label."""

    id: str
    """The pair's id; the rows of a split answer share it and stand in order."""
    input_ids: list[int]
    labels: list[int]

    @property
    def length(self) -> int:
        """Length in tokens."""
        return len(self.input_ids)

    @property
    def trained(self) -> int:
        """Tokens whose prediction is trained."""
        return sum(label != IGNORED for label in self.labels)


class SupervisionAudit(Record):
    """What will be trained, counted on the rows themselves."""

    pairs: int
    rows: int
    tokens: int
    trained_tokens: int
    longest_row: int
    """In tokens."""
    cut_answers: int
    """Pairs in the rows whose answer is not trained to its end token."""
    dropped: int
    """Pairs without any row."""
    split_answers: int
    """Pairs with several rows."""
    end_token_trained: float
    """Share of the rows whose last label is the end token."""
    prompt_tokens_in_labels: int
    bos_per_row_min: int
    bos_per_row_max: int
    bos_in_generation: int
    """BOS tokens in front of what a system is asked; rows must have as many."""


def build_examples(
    pairs: Sequence[QAPair], tokenizer: "PreTrainedTokenizerBase", prompt: PromptConfig, config: TrainConfig
) -> list[Example]:
    """The rows of `pairs`, in their order, none longer than `config.max_length` tokens.

    An answer that does not fit with its end token goes the way of `config.overlong`. `cut` keeps what fits, without an
    end token. `drop` leaves the pair out. `split` makes several rows with the same prompt: each later row repeats the
    last tokens of the part before, untrained, so that the model never learns to open an answer in mid-sentence; every
    answer token is trained once, and the end token closes the last row. In all three ways an overlong pair is left out
    where the prompt leaves less than `MIN_ANSWER_TOKENS` for the answer.
    """
    end = end_token_id(tokenizer)
    examples: list[Example] = []
    for pair in pairs:
        head = encode_prompt(tokenizer, build_messages(pair.question, prompt))
        body = [*encode_answer(tokenizer, pair.answer), end]
        examples.extend(_rows(pair.id, head, body, config))
    return examples


def audit_supervision(
    pairs: Sequence[QAPair],
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerBase",
    prompt: PromptConfig,
) -> SupervisionAudit:
    """Count what the rows train, against prompts and answers encoded anew; `pairs` are those the rows were built from.

    A row that does not hold its pair's prompt has no known place for an answer: all its labels count as prompt tokens.
    Expects every example's id among the pairs.
    """
    end = end_token_id(tokenizer)
    rows: dict[str, list[Example]] = {}
    for example in examples:
        rows.setdefault(example.id, []).append(example)
    stray = cut = generation_bos = 0
    for pair in pairs:
        head = encode_prompt(tokenizer, build_messages(pair.question, prompt))
        generation_bos = max(generation_bos, bos_count(tokenizer, head))
        own = rows.get(pair.id, [])
        stray += sum(_labels_in_prompt(example, head) for example in own)
        if own:
            whole = [*encode_answer(tokenizer, pair.answer), end]
            trained = [label for example in own for label in example.labels if label != IGNORED]
            cut += trained[-len(whole) :] != whole
    bos = [bos_count(tokenizer, example.input_ids) for example in examples]
    ended = sum(example.labels[-1] == end for example in examples)
    return SupervisionAudit(
        pairs=len(pairs),
        rows=len(examples),
        tokens=sum(example.length for example in examples),
        trained_tokens=sum(label != IGNORED for example in examples for label in example.labels),
        longest_row=max((example.length for example in examples), default=0),
        cut_answers=cut,
        dropped=sum(pair.id not in rows for pair in pairs),
        split_answers=sum(len(own) > 1 for own in rows.values()),
        end_token_trained=ended / len(examples) if examples else 0.0,
        prompt_tokens_in_labels=stray,
        bos_per_row_min=min(bos, default=0),
        bos_per_row_max=max(bos, default=0),
        bos_in_generation=generation_bos,
    )


def check_audit(audit: SupervisionAudit, config: TrainConfig) -> None:
    """Stop a training that would teach the wrong thing.

    Raises:
        AuditError: no row is left; more answers cut or dropped than `config.max_cut_share`; prompt tokens in the
            labels; a BOS count that differs from generation's or is above one; no row that trains its end token.
    """
    if not audit.rows:
        raise AuditError(
            f"none of {audit.pairs} pairs became a row to train on, {audit.dropped} were dropped",
            hint="raise train.max_length, or shorten prompt.system",
        )
    share = (audit.cut_answers + audit.dropped) / audit.pairs
    if share > config.max_cut_share:
        raise AuditError(
            f"{audit.cut_answers} answers are cut and {audit.dropped} dropped of {audit.pairs} pairs: {share:.1%}, "
            f"more than train.max_cut_share = {config.max_cut_share:.1%}",
            hint="raise train.max_length, set train.overlong = 'split', or allow it with train.max_cut_share",
        )
    if audit.prompt_tokens_in_labels:
        raise AuditError(
            f"{audit.prompt_tokens_in_labels} prompt tokens stand in the labels, expected 0",
            hint="build the rows with build_examples and leave their labels as they are",
        )
    found = (audit.bos_per_row_min, audit.bos_per_row_max)
    if found != (audit.bos_in_generation, audit.bos_in_generation) or audit.bos_per_row_max > 1:
        raise AuditError(
            f"rows begin with {found[0]} to {found[1]} BOS tokens, generation with {audit.bos_in_generation}; "
            "both must be the same and at most one",
            hint="encode training and generation with encode_prompt; look at the chat template if it writes two",
        )
    if not audit.end_token_trained:
        raise AuditError(
            f"none of {audit.rows} rows trains its end token, so the model would never learn to stop",
            hint="raise train.max_length, or set train.overlong = 'split'",
        )


def render_example(tokenizer: "PreTrainedTokenizerBase", example: Example) -> list[tuple[str, bool]]:
    """The row's text, special tokens included, in pieces with whether they are trained; joined it is the whole row."""
    pieces: list[tuple[str, bool]] = []
    done = 0
    shown = ""
    for trained, run in groupby(example.labels, key=lambda label: label != IGNORED):
        done += sum(1 for _ in run)
        # From the front each time: decoders treat the first token of a text apart.
        text = tokenizer.decode(example.input_ids[:done], clean_up_tokenization_spaces=False)
        pieces.append((text[len(shown) :], trained))
        shown = text
    return pieces


def _rows(id: str, head: list[int], body: list[int], config: TrainConfig) -> Iterator[Example]:
    """The rows of one pair; `body` is the answer with its end token."""
    room = config.max_length - len(head)
    if len(body) <= room:
        yield _row(id, head, body)
    elif room < MIN_ANSWER_TOKENS or config.overlong == "drop":
        return
    elif config.overlong == "cut":
        yield _row(id, head, body[:room])
    else:
        yield _row(id, head, body[:room])
        overlap = room // 4
        for start in range(room, len(body), room - overlap):
            context = body[start - overlap : start]
            yield _row(id, [*head, *context], body[start : start + room - overlap])


def _row(id: str, given: list[int], trained: list[int]) -> Example:
    return Example(id, [*given, *trained], [IGNORED] * len(given) + trained)


def _labels_in_prompt(example: Example, head: list[int]) -> int:
    """How many labels stand on the pair's prompt or before it, found by looking for the prompt in the row."""
    for start in range(example.length - len(head) + 1):
        if example.input_ids[start : start + len(head)] == head:
            return sum(label != IGNORED for label in example.labels[: start + len(head)])
    return sum(label != IGNORED for label in example.labels)
