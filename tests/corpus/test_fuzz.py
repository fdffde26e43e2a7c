"""Damaged and invented files, at random: a reader gives pairs that can be written, or a CorpusError, never another."""

import json
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.corpus.builders import csv, document, pair, parquet, sound_documents, unpacked, xml, zipped

from vademecum.config import CorpusConfig
from vademecum.corpus import load_corpus
from vademecum.errors import CorpusError
from vademecum.records import QAPair

pytestmark = pytest.mark.slow

Edit = tuple[Literal["cut", "insert", "replace", "repeat"], float, bytes]

MANY = settings(max_examples=1_000, deadline=None)
PIECES = [
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b'"', b"\r", b"\n", b",", b";", b"<", b"&", b"]]>", b"<!--",
    b"<!DOCTYPE d [<!ENTITY a 'b'>]>", b"&a;", b"&#0;", b"&#xD800;", b"<QAPair pid='1'>", b"</Answer>", b"<Answer/>",
    b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\xff\xff\xff\xff", b"\x01\x00", b"UTF-16", b"xmlns='x'", b"PAR1",
    b'{"question": ', b"\\ud800", b"NaN", b"question", b"answer", b"id",
]  # fmt: skip
edits: st.SearchStrategy[list[Edit]] = st.lists(
    st.tuples(
        st.sampled_from(("cut", "insert", "replace", "repeat")),
        st.floats(0, 1),
        st.sampled_from(PIECES) | st.binary(min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=6,
)


def change(data: bytes, found: list[Edit]) -> bytes:
    for kind, share, piece in found:
        at = int(share * len(data))
        end = at if kind == "insert" else at + len(piece)
        middle = {"cut": b"", "insert": piece, "replace": piece, "repeat": data[at:end] * 3}[kind]
        data = data[:at] + middle + data[end:]
    return data


def check(path: Path, format: Literal["auto", "medquad", "csv", "jsonl", "parquet"] = "auto") -> None:
    said: list[str] = []
    try:
        pairs = load_corpus(path, CorpusConfig(format=format), said.append)
    except CorpusError as error:
        assert str(path) in error.message
        assert error.hint
        return
    assert pairs
    assert len({one.id for one in pairs}) == len(pairs)
    for one in pairs:
        assert QAPair.model_validate_json(one.model_dump_json().encode()) == one


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all examples, which overwrite each other's file."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("method", [0, 8], ids=["stored", "deflated"])
@MANY
@given(found=edits)
def test_a_damaged_zip(folder: Path, method: int, found: list[Edit]) -> None:
    path = zipped(sound_documents(), method)(folder)
    path.write_bytes(change(path.read_bytes(), found))
    check(path)


@MANY
@given(found=edits)
def test_damaged_xml_in_a_sound_zip(folder: Path, found: list[Edit]) -> None:
    check(xml(change(document(pair("Rest &amp; tea.") + pair("Sleep.", pid="2")).encode(), found))(folder))


@MANY
@given(found=edits)
def test_damaged_xml_in_a_folder(folder: Path, found: list[Edit]) -> None:
    members = {"1_A/1.xml": change(document(pair("Rest &amp; tea.")).encode("utf-16"), found)}
    check(unpacked(members)(folder))


@MANY
@given(found=edits)
def test_damaged_csv(folder: Path, found: list[Edit]) -> None:
    path = csv('"q?","a, ""b"""', header="\ufeffquestion,answer")(folder)
    path.write_bytes(change(path.read_bytes(), found))
    check(path)


cells = st.text(st.characters(codec=None), max_size=8) | st.sampled_from(['"', '"a"', "", "question", "answer", "\r"])
grids = st.lists(st.lists(cells, max_size=4), max_size=6)


@MANY
@given(grid=grids, delimiter=st.sampled_from(",;\t"), end=st.sampled_from(("\n", "\r", "\r\n", "\x85", "\u2028")))
def test_invented_csv(folder: Path, grid: list[list[str]], delimiter: str, end: str) -> None:
    text = end.join(delimiter.join(row) for row in [["question", "answer"], *grid])
    path = folder / "invented.csv"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    check(path)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
objects = st.fixed_dictionaries(
    {"question": values, "answer": values}, optional={"id": values, "cuis": values, "focus": values, "url": values}
)


@MANY
@given(found=st.lists(objects | values, min_size=1, max_size=4), damage=st.just([]) | edits)
def test_invented_jsonl(folder: Path, found: list[object], damage: list[Edit]) -> None:
    path = folder / "invented.jsonl"
    path.write_bytes(change("\n".join(json.dumps(row) for row in found).encode(), damage))
    check(path)


@settings(max_examples=500, deadline=None)
@given(found=edits)
def test_damaged_parquet(folder: Path, found: list[Edit]) -> None:
    path = parquet()(folder)
    path.write_bytes(change(path.read_bytes(), found))
    check(path, "parquet")
