"""What `auto` recognises, and what it says when it cannot."""

import errno
import json
import os
import zipfile
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vademecum.config import CorpusConfig
from vademecum.corpus import digest_corpus, load_corpus, sample_path
from vademecum.corpus.loading import missing_fields
from vademecum.errors import CorpusError, SourceError
from vademecum.records import QAPair

ROW = {"question": "What is rest?", "answer": "A pause."}
XML = (
    '<Document source="S" url="u"><Focus>Rest</Focus><QAPairs><QAPair pid="1"><Question qtype="information">'
    "What is rest?</Question><Answer>A pause.</Answer></QAPair></QAPairs></Document>"
)
AUTO = CorpusConfig()


def write_kind(folder: Path, kind: str) -> Path:
    path = folder / f"corpus.{kind}"
    if kind in ("zip", "bin"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("top/1_A/1.xml", XML)
    elif kind == "folder":
        (path / "1_A").mkdir(parents=True)
        (path / "1_A" / "1.XML").write_text(XML)
    elif kind in ("parquet", "data"):
        pq.write_table(pa.table({name: [value] for name, value in ROW.items()}), path)
    elif kind in ("jsonl", "NDJSON"):
        path.write_text(json.dumps(ROW) + "\n")
    else:
        path.write_text("question\tanswer\nWhat is rest?\tA pause.\n")
    return path


@pytest.mark.parametrize("kind", ["zip", "bin", "folder", "parquet", "data", "jsonl", "NDJSON", "tsv", "CSV"])
def test_auto_recognises(tmp_path: Path, kind: str) -> None:
    (found,) = load_corpus(write_kind(tmp_path, kind), AUTO)
    assert (found.question, found.answer) == ("What is rest?", "A pause.")
    assert found.id


def test_a_given_format_and_mapping_are_obeyed(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text('{"q": "What is rest?", "a": "A pause."}\n')
    config = CorpusConfig(format="jsonl", columns={"question": "q", "answer": "a"})
    assert load_corpus(path, config)[0].answer == "A pause."


def test_nothing_there_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"there is no file or folder at '.*nowhere\.csv'"):
        load_corpus(tmp_path / "nowhere.csv", AUTO)


@pytest.mark.parametrize("name", ["corpus.txt", "corpus", "corpus.json"])
def test_an_unknown_kind_asks_for_the_format(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(CorpusError) as caught:
        load_corpus(tmp_path / name, AUTO)
    assert "corpus.format" in caught.value.hint


def test_a_folder_without_xml_lists_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="holds nothing"):
        load_corpus(tmp_path, AUTO)
    (tmp_path / "data.csv").write_text("x")
    with pytest.raises(CorpusError, match=r"it holds 'data\.csv'"):
        load_corpus(tmp_path, AUTO)


def test_a_folder_is_what_is_read_of_it(tmp_path: Path) -> None:
    folder = write_kind(tmp_path, "folder")
    before = digest_corpus(folder)
    for name in (".git/config", ".git/x.xml", "runs/demo/report.json", "notes.txt", "__MACOSX/1_A/1.xml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("<no pairs/>")
    (folder / os.fsdecode(b"latin-\xe9.txt")).write_text("x")
    assert digest_corpus(folder) == before
    assert len(load_corpus(folder, AUTO)) == 1
    (folder / "1_A" / "2.xml").write_text(XML.replace("A pause", "Sleep"))
    assert digest_corpus(folder) != before


def test_hidden_xml_makes_no_medquad(tmp_path: Path) -> None:
    (tmp_path / ".idea").mkdir()
    (tmp_path / ".idea" / "workspace.xml").write_text("<project/>")
    (tmp_path / "qa.csv").write_text("question,answer\n")
    with pytest.raises(CorpusError, match=r"folder without XML files; it holds '\.idea', 'qa\.csv'"):
        load_corpus(tmp_path, AUTO)


def test_what_cannot_be_looked_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_kind(tmp_path, "folder")
    real = os.scandir

    def denied(path: str) -> object:  # whoever runs the tests may be root, to whom nothing is denied
        if str(path).endswith("1_A"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", denied)
    for look in (digest_corpus, lambda path: load_corpus(path, AUTO)):
        with pytest.raises(CorpusError, match=r"1_A cannot be read: .*Permission denied"):
            look(folder)


@pytest.mark.parametrize(("name", "content"), [("a.csv", "question,answer\n"), ("a.csv", ""), ("a.jsonl", "\n")])
def test_an_empty_table_is_an_error(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError, match="empty corpus"):
        load_corpus(tmp_path / name, AUTO)


def test_a_zip_without_documents_is_an_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("data.csv", "question,answer\n")
    with pytest.raises(CorpusError, match="empty corpus"):
        load_corpus(tmp_path / "a.zip", AUTO)


@pytest.mark.parametrize("format", ["medquad", "csv", "jsonl", "parquet"])
def test_the_wrong_format_is_a_corpus_error(
    tmp_path: Path, format: Literal["medquad", "csv", "jsonl", "parquet"]
) -> None:
    path = tmp_path / "corpus"
    path.write_bytes(b"\x00\xff,neither\n")
    with pytest.raises(CorpusError, match="corpus"):
        load_corpus(path, CorpusConfig(format=format))


def test_missing_fields_names_what_no_pair_has() -> None:
    bare = QAPair(id="a", question="q", answer="a")
    assert missing_fields([bare]) == ["qtype", "focus", "document", "source", "cuis"]
    assert missing_fields([bare, bare.model_copy(update={"focus": "x", "cuis": ("C1",)})]) == [
        "qtype",
        "document",
        "source",
    ]


def test_the_sample_lies_in_the_package() -> None:
    assert sample_path().parts[-4:] == ("vademecum", "corpus", "sample", "pairs.jsonl")
