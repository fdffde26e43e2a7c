"""Tables: guessed and given columns, ids that survive reordering, and every way a file can be broken."""

import csv
import json
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vademecum.corpus.tables import guess_columns, read_table
from vademecum.errors import ConfigError, CorpusError
from vademecum.records import QAPair

Format = Literal["csv", "jsonl", "parquet"]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_guesses_the_columns_of_the_common_medquad_csv() -> None:
    assert guess_columns(["question", "answer", "source", "focus_area"]) == {
        "question": "question",
        "answer": "answer",
        "source": "source",
        "focus": "focus_area",
    }
    assert guess_columns(["Question", "ANSWER ", "Question Type", "topic", "extra"]) == {
        "question": "Question",
        "answer": "ANSWER ",
        "qtype": "Question Type",
        "focus": "topic",
    }


def test_guesses_every_field_by_its_own_name() -> None:
    names = list(QAPair.model_fields)
    assert guess_columns(names) == {name: name for name in names}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_reads_csv_in_its_dialects(tmp_path: Path, delimiter: str, start: str, end: str) -> None:
    rows = [["question", "answer", "focus_area"], ["What, now?", '"Two";\tthings', "x"], [], ["Why?", "", ""]]
    quoted = [delimiter.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    first, second = read_table(write(tmp_path / "a.csv", start + end.join(quoted)), "csv", {})
    assert (first.question, first.answer, first.focus) == ("What, now?", '"Two";\tthings', "x")
    assert (second.question, second.answer) == ("Why?", "")


def test_quotes_after_a_space_are_quotes(tmp_path: Path) -> None:
    content = 'question, answer\n"What, now?", "This, and that."\n'
    (pair,) = read_table(write(tmp_path / "a.csv", content), "csv", {})
    assert (pair.question, pair.answer) == ("What, now?", "This, and that.")


@pytest.mark.parametrize(
    "cell", ["C0004096 C0023860", "C0004096,C0023860", "['C0004096', 'C0023860']", '["C0004096","C0023860"]']
)
def test_concepts_are_read_however_they_are_listed(tmp_path: Path, cell: str) -> None:
    quoted = cell.replace('"', '""')
    (pair,) = read_table(write(tmp_path / "a.csv", f'question,answer,cuis\nq,a,"{quoted}"\n'), "csv", {})
    assert pair.cuis == ("C0004096", "C0023860")


def test_a_long_field_is_read_and_the_limit_of_the_process_stays(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    answer = "word " * 60_000
    (pair,) = read_table(write(tmp_path / "a.csv", f"question,answer\nq,{answer}\n"), "csv", {})
    assert pair.answer == answer
    assert csv.field_size_limit() == limit


def test_a_mapping_goes_before_the_guess(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,question,answer,prompt,source\n1,wrong,an answer,right,NIH\n")
    (pair,) = read_table(path, "csv", {"question": "prompt", "focus": "source", "id": ""})
    assert (pair.question, pair.focus, pair.source) == ("right", "NIH", "")
    assert len(pair.id) == 12


def test_a_row_of_our_own_comes_back_whole(tmp_path: Path) -> None:
    pair = QAPair(
        id="d#1",
        question="q\u2028?",
        answer="a",
        focus="f",
        qtype="t",
        source="s",
        url="u",
        document="d",
        cuis=("C1", "C2"),
        semantic_group="g",
    )
    jsonl = write(tmp_path / "a.jsonl", pair.model_dump_json() + "\r\n\n")
    parquet = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([pair.model_dump()]), parquet)
    assert read_table(jsonl, "jsonl", {}) == read_table(parquet, "parquet", {}) == [pair]


def test_ids_agree_between_formats(tmp_path: Path) -> None:
    row = {"question": "q", "answer": "line\nline", "focus": "f"}
    a = read_table(write(tmp_path / "a.csv", 'question,answer,focus\r\nq,"line\r\nline",f\r\n'), "csv", {})
    b = read_table(write(tmp_path / "a.jsonl", json.dumps(row)), "jsonl", {})
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    c = read_table(tmp_path / "a.parquet", "parquet", {})
    assert a[0].id == b[0].id == c[0].id


words = st.sampled_from(["", "a", "b", "a b"])
rows = st.lists(st.fixed_dictionaries(dict.fromkeys(("question", "answer", "focus", "url"), words)), min_size=1)
orders = rows.flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows)))


@given(orders=orders)
def test_ids_do_not_depend_on_the_order_of_rows(
    orders: tuple[list[dict[str, str]], list[dict[str, str]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("order") / "a.jsonl"
    before, after = (
        read_table(write(path, "\n".join(json.dumps(row) for row in order)), "jsonl", {}) for order in orders
    )
    assert len({pair.id for pair in before}) == len(before)
    assert sorted(before, key=lambda pair: pair.id) == sorted(after, key=lambda pair: pair.id)


def test_empty_and_absent_cells_are_empty_text(tmp_path: Path) -> None:
    content = '{"question": "q", "answer": null}\n{"question": "q", "answer": "a", "focus": "f", "id": 7}\n'
    first, second = read_table(write(tmp_path / "a.jsonl", content), "jsonl", {"id": ""})
    assert (first.answer, first.focus, second.focus) == ("", "", "f")
    table = pa.table({"question": ["q"], "answer": ["a"], "focus": [float("nan")], "cuis": ["C1, C2|C1"], "id": [7]})
    pq.write_table(table, tmp_path / "a.parquet")
    (pair,) = read_table(tmp_path / "a.parquet", "parquet", {})
    assert (pair.focus, pair.cuis, pair.id) == ("", ("C1", "C2"), "7")


@pytest.mark.parametrize(
    ("format", "content", "expected"),
    [
        ("csv", "question,reply\nq,a\n", "has no column for 'answer'; it has 'question', 'reply'"),
        ("csv", "question,question,answer\nq,q,a\n", "2 columns called 'question'"),
        ("csv", "question,answer\nq,a\nq,a,b\n", "line 3: found 3 fields, but the header has 2"),
        ("csv", 'question,answer\n"q\nq",a\nq\n', "line 4: found 1 fields"),
        ("csv", 'question,answer\nq,a\n\nq,"a\nq,a\n', "line 4: the record that begins here is broken"),
        ("csv", 'question,answer\nq,"a"b\n', "line 2: the record that begins here is broken"),
        ("csv", "question,answer\nq,a\0\n", "line 2: found a NUL byte"),
        ("csv", b"question,answer\nq,caf\xe9\n", "line 2: the byte 0xe9 is not UTF-8"),
        ("csv", "question,answer\nq,a\n".encode("utf-16"), "line 1: the byte 0xff is not UTF-8"),
        ("csv", "id,question,answer\nx,q,a\ny,q,b\nx,q,c\n", "line 4: the id 'x' stands already in"),
        ("csv", "id,question,answer\n ,q,a\n", "line 2: the id is empty"),
        ("jsonl", '{"question": "q", "answer": "a"}\n{"question": \n', "line 2: not JSON"),
        ("jsonl", "[" * 100_000, "line 1: not JSON"),
        ("jsonl", '[{"question": "q", "answer": "a"}]', "line 1: found a list, not an object"),
        ("jsonl", '{"question": "q", "answer": "a"}\n{"question": "q"}', "line 2: the row has no 'answer'"),
        ("jsonl", '{"question": ["q"], "answer": "a"}', "line 1, 'question': found a list, not text"),
        ("jsonl", '{"question": true, "answer": "a"}', "line 1, 'question': found a bool, not text"),
        ("jsonl", '{"question": "\\u0000", "answer": "a"}', "line 1, 'question': found a NUL character"),
        ("jsonl", '{"question": "\\ud800", "answer": "a"}', "line 1, 'question': found half a surrogate pair"),
        ("jsonl", b'\n{"question": "\xff"}', "line 2: the byte 0xff is not UTF-8"),
        ("parquet", "PAR1 but not really", "is not a sound Parquet file"),
    ],
)
def test_a_broken_table_names_file_and_line(
    tmp_path: Path, format: Format, content: str | bytes, expected: str
) -> None:
    path = write(tmp_path / f"a.{format}", content)
    with pytest.raises(CorpusError) as caught:
        read_table(path, format, {})
    assert str(path) in caught.value.message
    assert expected in caught.value.message
    assert caught.value.hint


def test_a_broken_parquet_row_is_counted(tmp_path: Path) -> None:
    table = pa.table({"question": ["q"] * 4, "answer": ["a", "b", "\0", "d"]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    with pytest.raises(CorpusError, match="row 3, 'answer': found a NUL character"):
        read_table(tmp_path / "a.parquet", "parquet", {})


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_a_folder_is_no_table(tmp_path: Path, format: Format) -> None:
    with pytest.raises(CorpusError, match="cannot be read"):
        read_table(tmp_path, format, {})


def test_a_wrong_mapping_says_what_would_be_right(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "question,answer\nq,a\n")
    with pytest.raises(CorpusError, match=r"no column 'reply'.*it has 'question', 'answer'"):
        read_table(path, "csv", {"answer": "reply"})
    with pytest.raises(CorpusError, match="no column for 'question'"):
        read_table(path, "csv", {"question": ""})
    with pytest.raises(ConfigError, match="maps 'anser'"):
        read_table(path, "csv", {"anser": "answer"})


@given(data=st.binary(max_size=60), format=st.sampled_from(["csv", "jsonl", "parquet"]))
def test_any_bytes_give_pairs_or_a_corpus_error(
    data: bytes, format: Format, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.mktemp("any") / "a", b"question,answer\n" + data if format == "csv" else data)
    try:
        pairs = read_table(path, format, {})
    except CorpusError:
        return
    assert len({pair.id for pair in pairs}) == len(pairs)
