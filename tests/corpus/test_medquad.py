"""The XML reader: both layouts, stable ids, hostile archives, and the counts of the real collection."""

import os
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vademecum.config import CorpusConfig
from vademecum.corpus import clean
from vademecum.corpus import medquad as medquad_module
from vademecum.corpus.medquad import read_medquad
from vademecum.errors import CorpusError
from vademecum.records import QAPair

PAIR = (
    '<QAPair pid="{pid}">\n<Question qid="x-{pid}" qtype="information">What is it?</Question>\n'
    "<Answer>{answer}</Answer>\n</QAPair>"
)
NESTED_UMLS = (
    "<FocusAnnotations><UMLS><CUIs><CUI>C0000001</CUI><CUI>C0000002</CUI><CUI>C0000001</CUI></CUIs>"
    "<SemanticGroup>Disorders</SemanticGroup></UMLS></FocusAnnotations>"
)
PLAIN_UMLS = "<UMLS><CUI>C0000003</CUI><SemanticType>T047</SemanticType><SemanticGroup></SemanticGroup></UMLS>"


def document(pairs: str, umls: str = NESTED_UMLS, root: str = "Document") -> str:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} id="ignored" source="NIH" url="https://example.org/a">\n'
        f"<Focus>Hay fever</Focus>{umls}\n<QAPairs>\n{pairs}\n</QAPairs>\n</{root}>\n"
    )


def write_zip(path: Path, members: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_folder(path: Path, members: dict[str, str]) -> Path:
    for name, content in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content, encoding="utf-8")
    return path


MEMBERS = {
    "2_B/0000002.xml": document(PAIR.format(pid=1, answer="Second &amp; last")),
    "1_A/0000001.xml": document(PAIR.format(pid=7, answer="One") + PAIR.format(pid=2, answer=""), PLAIN_UMLS),
    "readme.txt": "not XML",
}


def test_reads_every_field(tmp_path: Path) -> None:
    pairs = read_medquad(write_zip(tmp_path / "m.zip", {"1_A/0000009.xml": document(PAIR.format(pid=3, answer="Yes"))}))
    assert pairs == [
        QAPair(
            id="1_A/0000009#3",
            question="What is it?",
            answer="Yes",
            focus="Hay fever",
            qtype="information",
            source="NIH",
            url="https://example.org/a",
            document="1_A/0000009",
            cuis=("C0000001", "C0000002"),
            semantic_group="Disorders",
        )
    ]


def test_reads_the_cdc_layout_and_keeps_empty_answers(tmp_path: Path) -> None:
    first, second, third = read_medquad(write_folder(tmp_path, MEMBERS))
    assert (first.id, second.id, third.id) == ("1_A/0000001#7", "1_A/0000001#2", "2_B/0000002#1")
    assert first.cuis == ("C0000003",)
    assert first.semantic_group == ""
    assert second.answer == ""
    assert third.answer == "Second & last"


@pytest.mark.parametrize("prefix", ["", "MedQuAD-master/", "a/b/"])
def test_pairs_depend_neither_on_the_top_folder_nor_on_the_zip(tmp_path: Path, prefix: str) -> None:
    plain = read_medquad(write_folder(tmp_path / "plain", MEMBERS))
    members = {prefix + name: content for name, content in MEMBERS.items()}
    assert read_medquad(write_zip(tmp_path / "m.zip", {**members})) == plain
    assert read_medquad(write_folder(tmp_path / "folder", members)) == plain


def test_one_folder_alone_has_the_same_ids(tmp_path: Path) -> None:
    write_folder(tmp_path, MEMBERS)
    assert [pair.id for pair in read_medquad(tmp_path / "2_B")] == ["2_B/0000002#1"]


def test_the_older_layout_and_hidden_twins_are_left_out(tmp_path: Path) -> None:
    members: dict[str, str | bytes] = {
        "1_A/1.xml": '<doc docid="1"><qaPairs><pair pid="1"><question>?</question></pair></qaPairs></doc>',
        "__MACOSX/1_A/._2.xml": b"\0\1",
        "1_A/2.xml": document(PAIR.format(pid=1, answer="A"), root="DiseaseFile"),
    }
    said: list[str] = []
    assert [pair.id for pair in read_medquad(write_zip(tmp_path / "m.zip", members), said.append)] == ["1_A/2#1"]
    assert said == ["1 pairs of 1 files in MedQuAD's older layout are left out"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (document(PAIR.format(pid=1, answer="a") + PAIR.format(pid=1, answer="b")), "line 8: the pid '1'"),
        (document(PAIR.format(pid="", answer="a")), "line 5: a QAPair has no pid"),
        (document('<QAPair pid="4"><Question>?</Question></QAPair>'), "1 Question and 0 Answer elements"),
        (document("<QAPair>"), "line 6, column 3: the XML is broken: mismatched tag"),
        ("", "line 1, column 1: the XML is broken: no element found"),
        ('<?xml version="1.0" encoding="no-such"?><Document/>', "encoding"),
        ("<html/>", "line 1: found the root element 'html', not Document or DiseaseFile"),
        ('<!DOCTYPE d [<!ENTITY e "x">]>\n<Document>&e;</Document>', "DTDForbidden"),
        ('<!DOCTYPE d SYSTEM "file:///etc/hostname"><Document/>', "DTDForbidden"),
    ],
)
def test_a_broken_document_is_named(tmp_path: Path, content: str, expected: str) -> None:
    archive = write_zip(tmp_path / "m.zip", {"1_A/1.xml": content})
    with pytest.raises(CorpusError) as caught:
        read_medquad(archive)
    assert caught.value.message.startswith(f"'1_A/1.xml' in {archive}, line ")
    assert expected in caught.value.message
    assert caught.value.hint


def test_an_undecodable_byte_is_named(tmp_path: Path) -> None:
    content = document(PAIR.format(pid=1, answer="caf?")).encode().replace(b"caf?", b"caf\xe9")
    with pytest.raises(CorpusError, match=r"line 7, column .*not well-formed"):
        read_medquad(write_zip(tmp_path / "m.zip", {"1_A/1.xml": content}))


@pytest.mark.parametrize("name", ["/etc/a.xml", "../a.xml", "x/../../a.xml", "C:/a.xml", "x\\..\\a.txt"])
def test_a_path_out_of_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    archive = write_zip(tmp_path / "m.zip", {"1_A/1.xml": document(""), name: "x"})
    with pytest.raises(CorpusError, match="leads out of the archive"):
        read_medquad(archive)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "m.zip", {"1_A/1.xml": document("")})
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(CorpusError, match="is encrypted"):
        read_medquad(archive)


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "m.zip", {"1_A/1.xml": document(PAIR.format(pid=1, answer=" " * 2**21))})
    with pytest.raises(CorpusError, match="as a zip bomb does"):
        read_medquad(archive)


def test_a_member_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "m.zip", {"1_A/1.xml": document(PAIR.format(pid=1, answer="long " * 200))})
    data = bytearray(archive.read_bytes())
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (100).to_bytes(4, "little")
    archive.write_bytes(data)
    with pytest.raises(CorpusError, match=r"'1_A/1\.xml' .* is damaged"):
        read_medquad(archive)


def test_the_bounds_on_size_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_zip(tmp_path / "m.zip", {**MEMBERS})
    folder = write_folder(tmp_path / "folder", MEMBERS)
    monkeypatch.setattr(medquad_module, "MAX_TOTAL_BYTES", 500)
    with pytest.raises(CorpusError, match="above 500 bytes"):
        read_medquad(archive)
    monkeypatch.setattr(medquad_module, "MAX_FILE_BYTES", 100)
    with pytest.raises(CorpusError, match="more than the 100 that"):
        read_medquad(archive)
    with pytest.raises(CorpusError, match="more than the 100 bytes"):
        read_medquad(folder)


def test_the_same_document_twice_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a/1_A/1.xml": document(""), "b/1_A/1.xml": document("")})
    with pytest.raises(CorpusError, match="are both the document '1_A/1'"):
        read_medquad(tmp_path)


@given(data=st.binary(max_size=300), cut=st.integers(0, 400))
def test_damaged_bytes_never_give_another_error(
    data: bytes, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "m.zip"
    whole = write_zip(path, {"1_A/1.xml": document(PAIR.format(pid=1, answer="A"))}).read_bytes()
    path.write_bytes(whole[:cut] + data + whole[cut + len(data) :])
    try:
        pairs = read_medquad(path)
    except CorpusError:
        return
    assert all(pair.document for pair in pairs)


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def collection(said: list[str]) -> list[QAPair]:
    beside = Path(__file__).parents[3] / "shared" / "data" / "MedQuAD-master.zip"
    archive = Path(os.environ.get("VADE_MEDQUAD", beside))
    if not archive.exists():
        pytest.skip(f"needs MedQuAD: set VADE_MEDQUAD to its zip; there is none at {archive}")
    return read_medquad(archive, said.append)


def test_the_collection_says_what_is_left_out(collection: list[QAPair], said: list[str]) -> None:
    assert said == ["16 pairs of 4 files in MedQuAD's older layout are left out"]
    assert len(collection) + 16 == 47_457


def test_the_collection_has_its_known_counts(collection: list[QAPair]) -> None:
    answered = [pair for pair in collection if pair.answer.strip()]
    assert len(collection) == len({pair.id for pair in collection}) == 47_441
    assert len(answered) == 16_407
    assert Counter(pair.document.partition("/")[0] for pair in answered) == {
        "3_GHR_QA": 5_430,
        "2_GARD_QA": 5_389,
        "5_NIDDK_QA": 1_192,
        "6_NINDS_QA": 1_088,
        "4_MPlus_Health_Topics_QA": 981,
        "7_SeniorHealth_QA": 769,
        "1_CancerGov_QA": 729,
        "8_NHLBI_QA_XML": 559,
        "9_CDC_QA": 270,
    }


def test_the_collection_cleans_to_its_known_counts(collection: list[QAPair]) -> None:
    only_junk = CorpusConfig(drop_question_repeats=False, drop_duplicates=False)
    usable, _ = clean(collection, only_junk)
    assert len(usable) == 16_404
    assert len({(pair.question, pair.answer) for pair in usable}) == 16_356
    assert len({pair.qtype for pair in usable}) == 16
    assert len({pair.document for pair in usable}) == 5_486
    foci = {pair.focus for pair in usable if pair.focus}
    assert (len(foci), len({focus.lower() for focus in foci})) == (5_125, 4_741)
    assert sum(not pair.focus for pair in usable) == 14
    questions = {pair.question.lower() for pair in usable}
    assert len(questions) == 14_342
    kept, counts = clean(collection, CorpusConfig())
    assert len(kept) == 16_351
    assert counts == {
        "collapse_whitespace": counts["collapse_whitespace"],
        "empty_answer": 31_034,
        "empty_question": 0,
        "junk_answer": 3,
        "question_repeat": 5,
        "duplicate": 48,
    }
