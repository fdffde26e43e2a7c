"""The bundled sample corpus keeps its promises, and its data card counts what the file holds."""

import re
from collections import Counter
from pathlib import Path
from statistics import median

import pytest

import vademecum
from vademecum.records import QAPair

FOLDER = Path(vademecum.__file__).parent / "corpus" / "sample"
SOURCES = {"SampleConditions", "SampleGenetics", "SampleWellness"}
SHARED_WORDS = 13


@pytest.fixture(scope="module")
def pairs() -> list[QAPair]:
    lines = (FOLDER / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    return [QAPair.model_validate_json(line) for line in lines]


@pytest.fixture(scope="module")
def card() -> str:
    return (FOLDER / "README.md").read_text(encoding="utf-8")


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def table(card: str, heading: str) -> dict[str, int]:
    """The rows of the card's table whose first column has this heading."""
    _, found, after = card.partition(f"| {heading} | ")
    assert found, heading
    rows: dict[str, int] = {}
    for line in after.splitlines()[2:]:
        cells = re.fullmatch(r"\| (.+) \| (\d+) \|", line)
        if cells is None:
            break
        rows[cells[1].strip("`")] = int(cells[2])
    return rows


def test_is_large_and_varied_enough_to_try_every_stage(pairs: list[QAPair]) -> None:
    assert len(pairs) >= 340
    assert len({pair.focus for pair in pairs}) >= 115
    assert len({pair.qtype for pair in pairs}) >= 6
    assert {pair.source for pair in pairs} == SOURCES


def test_every_question_type_is_asked_often_enough_to_be_split(pairs: list[QAPair]) -> None:
    assert min(Counter(pair.qtype for pair in pairs).values()) >= 10


def test_ids_are_unique_and_number_the_pairs_of_their_document(pairs: list[QAPair]) -> None:
    assert len({pair.id for pair in pairs}) == len(pairs)
    seen: Counter[str] = Counter()
    for pair in pairs:
        seen[pair.document] += 1
        assert re.fullmatch(r"sample/\d{3}", pair.document)
        assert pair.id == f"{pair.document}#{seen[pair.document]}"


def test_each_document_has_one_focus_and_three_question_types(pairs: list[QAPair]) -> None:
    foci: dict[str, set[str]] = {}
    qtypes: dict[str, list[str]] = {}
    for pair in pairs:
        foci.setdefault(pair.document, set()).add(pair.focus)
        qtypes.setdefault(pair.document, []).append(pair.qtype)
    assert all(len(names) == 1 for names in foci.values())
    assert len({name for names in foci.values() for name in names}) == len(foci)
    assert all(len(kinds) == 3 == len(set(kinds)) for kinds in qtypes.values())


@pytest.mark.parametrize("field", ["question", "answer"])
def test_no_text_occurs_twice(pairs: list[QAPair], field: str) -> None:
    texts = Counter(" ".join(words(str(pair.model_dump()[field]))) for pair in pairs)
    assert [text for text, count in texts.items() if count > 1] == []


def test_no_long_run_of_words_is_shared_between_documents(pairs: list[QAPair]) -> None:
    owner: dict[tuple[str, ...], str] = {}
    for pair in pairs:
        tokens = words(pair.answer)
        for start in range(len(tokens) - SHARED_WORDS + 1):
            run = tuple(tokens[start : start + SHARED_WORDS])
            assert owner.setdefault(run, pair.document) == pair.document, " ".join(run)


def test_answers_are_short_prose_of_a_few_sentences(pairs: list[QAPair]) -> None:
    for pair in pairs:
        assert 20 <= len(pair.answer.split()) <= 90, pair.id
        assert 2 <= len(re.split(r"(?<=[.!?]) ", pair.answer)) <= 4, pair.id
        assert pair.answer.endswith("."), pair.id
        assert pair.question.endswith("?"), pair.id
        assert pair.answer == " ".join(pair.answer.split()), pair.id


def test_question_and_first_sentence_name_the_focus(pairs: list[QAPair]) -> None:
    for pair in pairs:
        first = pair.answer.split(". ")[0]
        assert pair.focus.casefold() in pair.question.casefold(), pair.id
        assert pair.focus.casefold() in first.casefold(), pair.id


def test_closing_sentences_are_not_one_stock_phrase(pairs: list[QAPair]) -> None:
    closings = Counter(re.split(r"(?<=[.!?]) ", pair.answer)[-1] for pair in pairs)
    assert max(closings.values()) == 1


def test_no_link_no_dose_and_no_identifier_from_elsewhere(pairs: list[QAPair]) -> None:
    for pair in pairs:
        text = f"{pair.question} {pair.answer}"
        assert pair.url == "", pair.id
        assert pair.cuis == (), pair.id
        assert not re.search(r"https?:|www\.|\.(?:com|org|gov|net)\b", text), pair.id
        assert not re.search(r"\d\s*(?:mg|µg|mcg|g|ml|units?|IU)\b", text), pair.id


def test_card_counts_are_those_of_the_file(pairs: list[QAPair], card: str) -> None:
    lengths = [len(pair.answer.split()) for pair in pairs]
    assert table(card, "What") == {
        "Pairs": len(pairs),
        "Foci": len({pair.focus for pair in pairs}),
        "Documents": len({pair.document for pair in pairs}),
        "Question types": len({pair.qtype for pair in pairs}),
        "Sources": len(SOURCES),
        "Fewest words in an answer": min(lengths),
        "Median words of an answer": median(lengths),
        "Most words in an answer": max(lengths),
    }
    assert table(card, "Question type") == Counter(pair.qtype for pair in pairs)
    assert table(card, "Source") == Counter(pair.source for pair in pairs)
    assert table(card, "Semantic group") == Counter(pair.semantic_group or "(empty)" for pair in pairs)


def test_card_counts_the_foci_of_each_source(pairs: list[QAPair], card: str) -> None:
    stated = {name: int(count) for name, count in re.findall(r"^- `(Sample\w+)`: (\d+) ", card, flags=re.MULTILINE)}
    assert stated == Counter({pair.focus: pair.source for pair in pairs}.values())


def test_card_states_licence_and_that_it_is_no_advice(card: str) -> None:
    assert "CC0 1.0" in card
    assert "not medical advice" in card
