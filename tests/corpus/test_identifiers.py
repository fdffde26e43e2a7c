"""What looks like a personal identifier is counted by kind, named by pair, and never shown."""

import dataclasses
import json
from pathlib import Path

import pytest
from tests.listener import Listener

from vademecum.config import load_config
from vademecum.corpus import check_identifiers, scan_identifiers, sensitive_words
from vademecum.corpus.identifiers import FIRST_IDS, SENSITIVE
from vademecum.errors import AuditError
from vademecum.records import QAPair
from vademecum.runs import Run
from vademecum.stages import Road, run_road

PLANTED = [
    ("birth_date", "Maria Lopez, born 3 March 1962, came in."),
    ("birth_date", "John F. O'Neill (born on July 4, 1950)"),
    ("birth_date", "DOB: 03/04/1962"),
    ("birth_date", "her date of birth is 1962-03-04."),
    ("birth_date", "D.O.B. 4.3.62"),
    ("record_number", "MRN 12345678"),
    ("record_number", "mrn: A-1234567"),
    ("record_number", "Medical record number: 00123456"),
    ("record_number", "patient ID #4711-0815"),
    ("record_number", "NHS number 943-4765-919"),
    ("social_security_number", "SSN 123-45-6789."),
    ("phone", "call (301) 555-0123 now"),
    ("phone", "1-800-555-0199"),
    ("phone", "301.555.0123"),
    ("phone", "+44 20 7946 0018"),
    ("email", "write to jane.doe+x@mail.example.org."),
    ("postal_address", "lives at 12 North Elm Street, Springfield"),
    ("postal_address", "9 N. Oak Ave, Dover"),
    ("postal_address", "P.O. Box 1234"),
]
HARMLESS = [
    "Babies born on or after July 1, 2009 are screened.",
    "People born before 1957 need no vaccine.",
    "He died on March 3, 1962.",
    "Mutations in MRN genes, complex MRN 11, and PMID: 12345678.",
    "OMIM 123456 and ICD-10 E11.9; 5-10-15 mg; 2000-2010.",
    "The patient number rose to 250 in 2010.",
    "codes 000-12-3456 and 912-34-5678",
    "See www.nih.gov/about or follow @nih; 5 @ 3.",
    "Take 10 Tablets; 3 in 100 people drive; 2 Main Causes of Road Accidents",
    "between 1980-1990, 555-1234",
]


def pair(text: str, name: str = "a") -> QAPair:
    return QAPair(id=name, question="What?", answer=text)


@pytest.mark.parametrize(("kind", "text"), PLANTED, ids=[text for _, text in PLANTED])
def test_each_kind_is_found_once_and_as_nothing_else(kind: str, text: str) -> None:
    assert {name: found.count for name, found in scan_identifiers([pair(text)]).items() if found.count} == {kind: 1}


@pytest.mark.parametrize("text", HARMLESS)
def test_what_public_texts_are_full_of_is_not_found(text: str) -> None:
    assert {name: found.count for name, found in scan_identifiers([pair(text)]).items() if found.count} == {}


def test_counts_are_of_places_and_the_first_pairs_are_named_in_order() -> None:
    pairs = [pair("MRN 12345678 and MRN 87654321", f"{number:02}") for number in reversed(range(9))]
    found = scan_identifiers([*pairs, QAPair(id="x", question="MRN 11111111?", answer="Yes.")])["record_number"]
    assert (found.count, found.pairs) == (19, 10)
    assert found.first_ids == ("00", "01", "02", "03", "04")
    assert len(found.first_ids) == FIRST_IDS


@pytest.mark.parametrize(("kind", "text"), PLANTED, ids=[text for _, text in PLANTED])
def test_only_sensitive_kinds_stop_and_none_of_the_text_is_told(kind: str, text: str) -> None:
    found = scan_identifiers([pair(text, "row 7")])
    if kind not in SENSITIVE:
        check_identifiers(found)
        assert sensitive_words(found) == ""
        return
    with pytest.raises(AuditError, match=f"{kind.replace('_', ' ')}: 1 in 1 pairs, the first 'row 7'") as caught:
        check_identifiers(found)
    assert text not in caught.value.message
    assert "corpus.identifiers" in caught.value.hint


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Sound pairs, and one of a patient."""
    file = tmp_path / "table.jsonl"
    rows = [{"question": f"What is illness {n}?", "answer": f"Illness number {n} is rare."} for n in range(40)]
    rows.append({"question": "Who was seen?", "answer": "Zyxwv Patient, born 3 March 1962, MRN 12345678."})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_counted_the_run_goes_on_and_says_so(table: Path, tmp_path: Path) -> None:
    listener, run = Listener(), Run.create(tmp_path / "run")
    run_road(Road(run, load_config("demo", [f"corpus.source={table}"]), listener), until="prepare")
    found = run.read_json("identifiers.json")
    assert {kind: row["count"] for kind, row in found.items() if row["count"]} == {"birth_date": 1, "record_number": 1}
    (said,) = [line for line in listener.said if "personal identifiers" in line]
    assert "birth date: 1 in 1 pairs" in said
    assert "1962" not in said and "12345678" not in said
    assert "1962" not in run.file("identifiers.json").read_text(encoding="utf-8")


def test_told_to_stop_the_run_ends_before_anything_is_written(table: Path, tmp_path: Path) -> None:
    settings = [f"corpus.source={table}", "corpus.identifiers=stop"]
    road = Road(Run.create(tmp_path / "run"), load_config("demo", settings), Listener())
    with pytest.raises(AuditError, match=r"birth date: 1 .* record number: 1 "):
        run_road(road, until="prepare")
    assert not [file for file in road.run.path.rglob("*") if file.is_file() and b"Zyxwv" in file.read_bytes()]
    run_road(dataclasses.replace(road, config=load_config("demo", settings[:1])), until="prepare")
