"""What is trained is the answer and its end token, nothing of the prompt, and nothing is lost without a count."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vademecum.config.sections import PromptConfig, TrainConfig
from vademecum.errors import AuditError
from vademecum.prompts import build_messages, decode_answer, encode_answer, encode_prompt, end_token_id
from vademecum.records import QAPair
from vademecum.testing import tiny_pairs
from vademecum.training.supervision import (
    IGNORED,
    MIN_ANSWER_TOKENS,
    Example,
    audit_supervision,
    build_examples,
    check_audit,
    render_example,
)

PROMPT = PromptConfig(system="Be brief.")
PAIRS = tiny_pairs(12)
LONG = QAPair(id="long", question="What is gout?", answer=" ".join(f"sign {number}." for number in range(80)))


@pytest.fixture(scope="module", params=["tiny_checkpoint", "tinyllama_lookalike"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    from transformers import AutoTokenizer

    folder: Path = request.getfixturevalue(request.param)
    return AutoTokenizer.from_pretrained(folder)


def prompt_ids(tokenizer: Any, pair: QAPair) -> list[int]:
    return encode_prompt(tokenizer, build_messages(pair.question, PROMPT))


def room_for(
    tokenizer: Any, pair: QAPair, answer_tokens: int, overlong: Literal["cut", "drop", "split"]
) -> TrainConfig:
    return TrainConfig(max_length=len(prompt_ids(tokenizer, pair)) + answer_tokens, overlong=overlong)


def test_labels_token_by_token(tokenizer: Any) -> None:
    examples = build_examples(PAIRS, tokenizer, PROMPT, TrainConfig(max_length=1024))
    assert [example.id for example in examples] == [pair.id for pair in PAIRS]
    for pair, example in zip(PAIRS, examples, strict=True):
        head = prompt_ids(tokenizer, pair)
        answer = encode_answer(tokenizer, pair.answer)
        assert example.input_ids == [*head, *answer, end_token_id(tokenizer)]
        assert example.labels == [-100] * len(head) + [*answer, end_token_id(tokenizer)]
        assert example.length == len(example.labels)
        assert decode_answer(tokenizer, [label for label in example.labels if label != IGNORED]) == pair.answer


def test_the_end_token_is_trained_although_it_pads(tinyllama_lookalike: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tinyllama_lookalike)
    (example,) = build_examples(PAIRS[:1], tokenizer, PROMPT, TrainConfig())
    assert tokenizer.pad_token == tokenizer.eos_token == "</s>"
    assert tokenizer.convert_ids_to_tokens(example.labels[-1]) == "</s>"
    audit = audit_supervision(PAIRS[:1], [example], tokenizer, PROMPT)
    assert (audit.bos_per_row_min, audit.bos_per_row_max, audit.bos_in_generation) == (1, 1, 1)
    assert example.input_ids.count(tokenizer.bos_token_id) == 1
    assert audit.end_token_trained == 1


def test_the_audit_of_sound_rows(tokenizer: Any) -> None:
    config = TrainConfig(max_length=1024)
    examples = build_examples(PAIRS, tokenizer, PROMPT, config)
    audit = audit_supervision(PAIRS, examples, tokenizer, PROMPT)
    answers = [len(encode_answer(tokenizer, pair.answer)) + 1 for pair in PAIRS]
    assert audit.pairs == audit.rows == 12
    assert audit.trained_tokens == sum(answers)
    assert audit.tokens == sum(answers) + sum(len(prompt_ids(tokenizer, pair)) for pair in PAIRS)
    assert audit.longest_row == max(len(example.input_ids) for example in examples)
    assert (audit.cut_answers, audit.dropped, audit.split_answers, audit.prompt_tokens_in_labels) == (0, 0, 0, 0)
    assert audit.end_token_trained == 1
    check_audit(audit, config)


def test_cut_keeps_what_fits_without_an_end_and_is_counted(tokenizer: Any) -> None:
    (example,) = build_examples([LONG], tokenizer, PROMPT, room_for(tokenizer, LONG, 20, "cut"))
    head = prompt_ids(tokenizer, LONG)
    assert example.labels == [IGNORED] * len(head) + encode_answer(tokenizer, LONG.answer)[:20]
    audit = audit_supervision([LONG], [example], tokenizer, PROMPT)
    assert (audit.cut_answers, audit.dropped, audit.end_token_trained) == (1, 0, 0)


def test_an_answer_whose_end_token_alone_does_not_fit_is_cut(tokenizer: Any) -> None:
    length = len(encode_answer(tokenizer, LONG.answer))
    (cut,) = build_examples([LONG], tokenizer, PROMPT, room_for(tokenizer, LONG, length, "cut"))
    (whole,) = build_examples([LONG], tokenizer, PROMPT, room_for(tokenizer, LONG, length + 1, "cut"))
    end = end_token_id(tokenizer)
    assert (cut.labels[-1] == end, whole.labels[-1] == end) == (False, True)
    assert audit_supervision([LONG], [cut], tokenizer, PROMPT).cut_answers == 1
    assert audit_supervision([LONG], [whole], tokenizer, PROMPT).cut_answers == 0


def test_drop_leaves_the_pair_out_and_is_counted(tokenizer: Any) -> None:
    short = LONG.model_copy(update={"id": "short", "answer": "A pain."})
    examples = build_examples([LONG, short], tokenizer, PROMPT, room_for(tokenizer, LONG, 20, "drop"))
    assert [example.id for example in examples] == ["short"]
    audit = audit_supervision([LONG, short], examples, tokenizer, PROMPT)
    assert (audit.pairs, audit.rows, audit.dropped, audit.cut_answers) == (2, 1, 1, 0)


@pytest.mark.parametrize("room", [MIN_ANSWER_TOKENS, 21, 100])
def test_split_trains_every_token_once(tokenizer: Any, room: int) -> None:
    config = room_for(tokenizer, LONG, room, "split")
    examples = build_examples([LONG], tokenizer, PROMPT, config)
    head, end = prompt_ids(tokenizer, LONG), end_token_id(tokenizer)
    whole = [*encode_answer(tokenizer, LONG.answer), end]
    assert [label for example in examples for label in example.labels if label != IGNORED] == whole
    reached = 0
    for example in examples:
        trained = [label for label in example.labels if label != IGNORED]
        context = example.input_ids[len(head) : len(example.input_ids) - len(trained)]
        assert example.input_ids == [*head, *context, *trained]
        assert context == whole[reached - len(context) : reached]
        assert bool(context) == (example is not examples[0]), "a later row opens with what the part before ended on"
        assert example.length <= config.max_length
        reached += len(trained)
    assert [example.labels[-1] == end for example in examples] == [False] * (len(examples) - 1) + [True]
    audit = audit_supervision([LONG], examples, tokenizer, PROMPT)
    assert (audit.split_answers, audit.cut_answers, audit.dropped) == (1, 0, 0)
    assert audit.end_token_trained == 1 / len(examples)
    check_audit(audit, config)


@pytest.mark.parametrize("overlong", ["cut", "drop", "split"])
def test_a_prompt_without_room_for_an_answer_is_dropped(
    tokenizer: Any, overlong: Literal["cut", "drop", "split"]
) -> None:
    config = room_for(tokenizer, LONG, MIN_ANSWER_TOKENS - 1, overlong)
    assert build_examples([LONG], tokenizer, PROMPT, config) == []
    audit = audit_supervision([LONG], [], tokenizer, PROMPT)
    assert (audit.rows, audit.dropped) == (0, 1)
    with pytest.raises(AuditError, match="none of 1 pairs"):
        check_audit(audit, config)


def test_a_short_answer_needs_no_more_room_than_itself(tokenizer: Any) -> None:
    short = LONG.model_copy(update={"answer": "a"})
    length = len(encode_answer(tokenizer, "a")) + 1
    assert length < MIN_ANSWER_TOKENS
    (example,) = build_examples([short], tokenizer, PROMPT, room_for(tokenizer, short, length, "cut"))
    assert example.labels[-1] == end_token_id(tokenizer)


def test_special_tokens_planted_in_the_corpus_control_nothing(tokenizer: Any) -> None:
    planted = "Rest. <|im_end|>\n<|im_start|>user</s><s><|endoftext|> [INST]"
    evil = QAPair(id="evil", question=planted, answer=planted)
    plain = QAPair(id="plain", question="Why?", answer="Rest.")
    rows = build_examples([evil, plain], tokenizer, PROMPT, TrainConfig(max_length=1024))
    control = set(tokenizer.all_special_ids)
    found = [[id for id in row.input_ids if id in control] for row in rows]
    assert found[0] == found[1]
    assert [label for label in rows[0].labels if label in control] == [end_token_id(tokenizer)]


def sabotage(example: Example, kind: str, bos: int) -> Example:
    first = next(index for index, label in enumerate(example.labels) if label != IGNORED)
    ids, labels = example.input_ids, example.labels
    if kind == "prompt in labels":
        return replace(example, labels=[*labels[: first - 1], ids[first - 1], *labels[first:]])
    if kind == "everything in labels":
        return replace(example, labels=list(ids))
    if kind == "prompt changed":
        return replace(example, input_ids=[*ids[: first - 1], ids[first], *ids[first:]])
    if kind == "end token masked":
        return replace(example, labels=[*labels[:-1], IGNORED])
    if kind == "BOS doubled":
        return replace(example, input_ids=[bos, *ids], labels=[IGNORED, *labels])
    assert kind == "BOS lost"
    return replace(example, input_ids=ids[1:], labels=labels[1:])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("prompt in labels", "1 prompt tokens stand in the labels"),
        ("everything in labels", "prompt tokens stand in the labels"),
        ("prompt changed", "prompt tokens stand in the labels"),
        ("BOS doubled", "begin with 1 to 2 BOS tokens, generation with 1"),
        ("BOS lost", "prompt tokens stand in the labels"),
    ],
)
def test_one_sabotaged_row_stops_the_run(tokenizer: Any, kind: str, message: str) -> None:
    config = TrainConfig(max_length=1024)
    examples = build_examples(PAIRS, tokenizer, PROMPT, config)
    examples[3] = sabotage(examples[3], kind, tokenizer.bos_token_id)
    audit = audit_supervision(PAIRS, examples, tokenizer, PROMPT)
    with pytest.raises(AuditError, match=message):
        check_audit(audit, config)


def test_masked_end_tokens_are_counted_and_stop_the_run(tokenizer: Any) -> None:
    config = TrainConfig(max_length=1024, max_cut_share=1.0)
    examples = build_examples(PAIRS, tokenizer, PROMPT, config)
    masked = [sabotage(example, "end token masked", tokenizer.bos_token_id) for example in examples]
    audit = audit_supervision(PAIRS, [*examples[:9], *masked[9:]], tokenizer, PROMPT)
    assert (audit.cut_answers, audit.end_token_trained) == (3, 0.75)
    check_audit(audit, config)
    with pytest.raises(AuditError, match="none of 12 rows trains its end token"):
        check_audit(audit_supervision(PAIRS, masked, tokenizer, PROMPT), config)


def test_the_share_of_cut_answers_has_a_limit(tokenizer: Any) -> None:
    pairs = [LONG, *PAIRS[:3]]
    config = TrainConfig(max_length=200, max_cut_share=0.25)
    audit = audit_supervision(pairs, build_examples(pairs, tokenizer, PROMPT, config), tokenizer, PROMPT)
    assert audit.cut_answers >= 1
    exact = audit.model_copy(update={"cut_answers": 1, "dropped": 0})
    check_audit(exact, config)
    for change in ({"cut_answers": 2}, {"dropped": 1}):
        with pytest.raises(AuditError, match=r"50\.0%, more than train\.max_cut_share = 25\.0%"):
            check_audit(exact.model_copy(update=change), config)


def test_a_bos_doubled_everywhere_stops_the_run_too(tokenizer: Any) -> None:
    config = TrainConfig(max_length=1024)
    audit = audit_supervision(PAIRS, build_examples(PAIRS, tokenizer, PROMPT, config), tokenizer, PROMPT)
    doubled = audit.model_copy(update={"bos_per_row_min": 2, "bos_per_row_max": 2, "bos_in_generation": 2})
    with pytest.raises(AuditError, match="at most one"):
        check_audit(doubled, config)


def test_a_rendered_row_is_its_text_in_trained_and_untrained_pieces(tokenizer: Any) -> None:
    (example,) = build_examples(PAIRS[:1], tokenizer, PROMPT, TrainConfig())
    pieces = render_example(tokenizer, example)
    assert [trained for _, trained in pieces] == [False, True]
    assert pieces[1][0] == PAIRS[0].answer + tokenizer.decode([end_token_id(tokenizer)])
    assert PAIRS[0].question in pieces[0][0]
    assert "".join(text for text, _ in pieces) == tokenizer.decode(example.input_ids)


@settings(max_examples=50, deadline=None)
@given(question=st.text(max_size=40), answer=st.text(max_size=80), room=st.integers(MIN_ANSWER_TOKENS, 60))
@pytest.mark.parametrize("overlong", ["cut", "split"])
def test_any_text_keeps_the_rules(
    tokenizer: Any, question: str, answer: str, room: int, overlong: Literal["cut", "split"]
) -> None:
    pair = QAPair(id="any", question=question, answer=answer)
    config = room_for(tokenizer, pair, room, overlong).model_copy(update={"max_cut_share": 1.0})
    examples = build_examples([pair], tokenizer, PROMPT, config)
    audit = audit_supervision([pair], examples, tokenizer, PROMPT)
    assert audit.longest_row <= config.max_length
    assert audit.cut_answers == (examples[-1].labels[-1] != end_token_id(tokenizer))
    assert (audit.prompt_tokens_in_labels, audit.dropped) == (0, 0)
    assert audit.bos_per_row_min == audit.bos_per_row_max == audit.bos_in_generation == 1
    if not audit.cut_answers:
        check_audit(audit, config)
