"""The table of bad and odd inputs: how each is made, and what must happen.

Six sound pairs stand beside the odd thing, so that an input which is read goes all the way through reading, cleaning,
splitting and the leakage audit.
"""

import datetime
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pyarrow as pa
from tests.corpus.builders import (
    N_SOUND,
    SOUND,
    Build,
    csv,
    document,
    encrypt,
    flip,
    halve,
    jsonl,
    large_file,
    pair,
    parquet,
    parquet_not_utf8,
    patched,
    plain,
    rows,
    same_member_twice,
    sound_documents,
    symlink,
    understate,
    unname,
    unpacked,
    with_member,
    xml,
    zip_in_zip,
    zipped,
)

from vademecum.errors import ConfigError, CorpusError, InputError


@dataclass(frozen=True)
class Read:
    """The corpus is read: so many pairs, these counts of cleaning, this text in a kept pair, this remark."""

    pairs: int = N_SOUND + 1
    counted: Mapping[str, int] = field(default_factory=dict)
    holds: str = ""
    said: str = ""


@dataclass(frozen=True)
class Refused:
    """The corpus is refused with a message that holds these parts, and the file's path where a reader refuses it."""

    found: tuple[str, ...]
    error: type[InputError] = CorpusError
    names_path: bool = True


@dataclass(frozen=True)
class Input:
    """A row of the table."""

    name: str
    build: Build
    must: Read | Refused
    corpus: Mapping[str, Any] = field(default_factory=dict)
    split: Mapping[str, Any] = field(default_factory=dict)


MEMBER = "'1_A/1.xml' in "
HEAD = '<?xml version="1.0" encoding="{}"?>\n'
BOMB = '<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>\n'
LONG = " ".join(f"word{n}" for n in range(110_000))
HEBREW = "שָׁלוֹם means peace, \u202babc\u202c and cafe\u0301 a cafe\u0301."
EMOJI = "Rest \U0001f469\u200d\u2695\ufe0f and tea \U0001f375."
OLDER = '<doc docid="1"><qaPairs><pair pid="1"/><pair pid="2"/></qaPairs></doc>'


def line(number: int, *found: str, **more: Any) -> Refused:
    return Refused((f"line {number}", *found), **more)


def in_document(number: int, *found: str) -> Refused:
    return line(number, MEMBER, *found)


XML = [
    Input("a truncated document", xml(document(pair("x"))[:120]), in_document(3, "the XML is broken")),
    Input("an empty document", xml(""), in_document(1, "no element found")),
    Input(
        "a document of 65 MiB",
        xml(b" " * 65 * 2**20),
        Refused((MEMBER, "68,157,440 bytes", "more than the 67,108,864")),
    ),
    Input("a file of 64 MiB and a byte", large_file, Refused(("9.xml", "more than the 67,108,864"))),
    Input("XML with a UTF-8 BOM", xml("\ufeff" + document(pair("Tiré."))), Read(holds="Tiré.")),
    Input("XML in UTF-16", xml(document(pair("Tiré."), head=HEAD.format("UTF-16")).encode("utf-16")), Read()),
    Input(
        "XML in UTF-16 that calls itself UTF-8",
        xml(document(pair("x")).encode("utf-16")),
        in_document(1, "encoding specified in XML declaration is incorrect"),
    ),
    Input(
        "XML in Latin-1 that says so",
        xml(document(pair("Tiré."), head=HEAD.format("ISO-8859-1")).encode("latin-1")),
        Read(holds="Tiré."),
    ),
    Input("XML in Latin-1 that does not", xml(document(pair("Tiré.")).encode("latin-1")), in_document(4, "not well-f")),
    Input(
        "XML in two encodings", xml(document(pair("é?")).encode().replace(b"?</A", b"\xe9</A")), in_document(4, "not w")
    ),
    Input("an unknown encoding", xml(document("", head=HEAD.format("none"))), in_document(1, "encoding", "none")),
    Input("a multi-byte encoding", xml(document("", head=HEAD.format("gbk"))), in_document(1, "multi-byte")),
    Input("a NUL byte in XML", xml(document(pair("a\0b"))), in_document(4, "not well-formed")),
    Input("an entity bomb", xml(document(pair("&b;"), head=BOMB)), in_document(1, "DTDForbidden")),
    Input(
        "an external entity",
        xml(document(pair("&e;"), head='<!DOCTYPE d [<!ENTITY e SYSTEM "file:///etc/hostname">]>\n')),
        in_document(1, "DTDForbidden"),
    ),
    Input(
        "an external document type",
        xml(document(pair("x"), head='<!DOCTYPE d SYSTEM "http://example.org/d.dtd">\n')),
        in_document(1, "DTDForbidden"),
    ),
    Input("an entity of HTML", xml(document(pair("a&nbsp;b"))), in_document(4, "undefined entity")),
    Input(
        "an XInclude",
        xml(document(pair('<x:include xmlns:x="http://www.w3.org/2001/XInclude" href="/etc/hostname"/>'))),
        in_document(3, "pid '1'", "XInclude}include'"),
    ),
    Input("a control character in XML", xml(document(pair("a&#7;b"))), in_document(4, "invalid character number")),
    Input("half a surrogate pair in XML", xml(document(pair("a&#xD83D;b"))), in_document(4, "invalid character")),
    Input("elements in an answer", xml(document(pair("<p>a</p><p>b</p>"))), in_document(3, "pid '1'", "element 'p'")),
    Input(
        "HTML as text in an answer",
        xml(document(pair("&lt;script&gt;alert(1)&lt;/script&gt;"))),
        Read(holds="<script>alert(1)</script>", said="1 pairs hold what looks like HTML"),
    ),
    Input("a CDATA section", xml(document(pair("<![CDATA[a < b]]>"))), Read(holds="a < b")),
    Input("a web page instead of a document", xml("<html/>"), in_document(1, "root element 'html'")),
    Input(
        "100,000 nested elements",
        with_member("1_A/1.xml", "<a>" * 10**5 + "</a>" * 10**5, zipfile.ZIP_STORED),
        in_document(1, "root element 'a'"),
    ),
    Input(
        "a pair outside QAPairs",
        xml(document("").replace("</Document>", pair("x") + "</Document>")),
        in_document(3, "outside QAPairs"),
    ),
    Input("the same pid twice", xml(document(pair("x") + pair("y"))), in_document(4, "pid '1'", "second time")),
    Input("no pid", xml(document(pair("x", pid=""))), in_document(3, "no pid")),
    Input("two answers", xml(document(pair("x</Answer><Answer>y"))), in_document(3, "2 Answer elements")),
    Input(
        "empty and white-space answers",
        xml(document(pair("") + pair(" \n\u00a0", pid="2"))),
        Read(N_SOUND + 2, {"empty_answer": 2}),
    ),
    Input("the older layout", xml(OLDER), Read(N_SOUND, said="2 pairs of 1 files in MedQuAD's older layout")),
    Input("the older layout alone", zipped({"1_A/1.xml": OLDER}), Refused(("empty corpus", "older layout"))),
    Input("an answer of 1 MB in XML", xml(document(pair(LONG))), Read(holds=LONG)),
    Input("right to left and combining in XML", xml(document(pair(HEBREW))), Read(holds=HEBREW, said="control")),
]

ARCHIVES = [
    Input("an absolute path", with_member("/etc/a.xml", "x"), Refused(("'/etc/a.xml'", "leads out"))),
    Input("a path with ..", with_member("x/../../a.txt", "x"), Refused(("'x/../../a.txt'", "leads out"))),
    Input("a path with ..\\", with_member("x\\..\\a.xml", "x"), Refused(("a.xml'", "leads out"))),
    Input("a drive letter", with_member("C:/a.xml", "x"), Refused(("'C:/a.xml'", "leads out"))),
    Input("a zip bomb", xml(document(pair(" " * 2**22))), Refused((MEMBER, "as a zip bomb does"))),
    Input(
        "a member larger than it says",
        patched(zipped(sound_documents()), understate),
        Refused(("'2_B/0.xml'", "damaged")),
    ),
    Input("a member without a name", patched(with_member("Q.txt", ""), unname), Read(N_SOUND)),
    Input("an encrypted zip", patched(zipped(sound_documents()), encrypt), Refused(("'2_B/0.xml'", "is encrypted"))),
    Input("a zip in a zip", zipped({"inner.zip": zip_in_zip()}), Refused(("empty corpus", "'inner.zip'"))),
    Input("a table in a zip", zipped({"data.csv": "question,answer\n"}), Refused(("empty corpus", "'data.csv'"))),
    Input("an empty zip", zipped({}), Refused(("empty corpus",))),
    Input("a truncated zip", patched(zipped(sound_documents()), halve), Refused(("cannot be read as a zip",))),
    Input("something else called .zip", plain("<html/>", "corpus.zip"), Refused(("cannot be read as a zip",))),
    Input(
        "a damaged member",
        patched(zipped(sound_documents(), zipfile.ZIP_STORED), flip),
        Refused(("'2_B/0.xml'", "damaged", "CRC")),
    ),
    Input("LZMA in a zip", zipped(sound_documents(), zipfile.ZIP_LZMA), Refused(("'2_B/0.xml'", "compressed", "14"))),
    Input("the same member twice", same_member_twice, Refused(("'2_B/0.xml'", "both the document"))),
    Input("a document in two folders", with_member("copy/2_B/0.xml", document("")), Refused(("both the document",))),
    Input("a link in a zip", symlink, in_document(1, "the XML is broken")),
    Input(
        "an Excel workbook",
        zipped({"[Content_Types].xml": "<Types/>", "xl/sheet.xml": "<x/>"}, name="corpus.xlsx"),
        Refused(("spreadsheet",)),
    ),
    Input("an old Excel workbook", plain(b"\xd0\xcf\x11\xe0", "corpus.XLS"), Refused(("spreadsheet",))),
    Input("one XML file", plain(document(pair("x")), "corpus.xml"), Refused(("a single XML file",))),
    Input("an empty folder", unpacked({}), Refused(("holds nothing",))),
    Input("a folder without XML", unpacked({"a.csv": ""}), Refused(("without XML files", "'a.csv'"))),
    Input("a folder called .xml", unpacked({"a.xml/b.txt": ""}), Refused(("folder without XML files",))),
    Input(
        "a file name that is not UTF-8",
        unpacked({**sound_documents(), "1_A/\udcff.xml": document(pair("x"))}),
        Refused(("\\udcff.xml", "name")),
    ),
]

CSV = [
    Input("an empty file", plain(""), Refused(("empty corpus",))),
    Input("a header alone", plain("question,answer\n"), Refused(("empty corpus",))),
    Input("CSV with a UTF-8 BOM", csv("q?,a", header="\ufeffquestion,answer"), Read()),
    Input("CSV in UTF-16", plain("question,answer\nq,a\n".encode("utf-16")), line(1, "0xff is not UTF-8")),
    Input("CSV in Latin-1", csv("q?,Tiré".encode("latin-1")), line(2, "0xe9 is not UTF-8")),
    Input("CSV in two encodings", csv("q?,Tiré", b"r?,Tir\xe9"), line(3, "0xe9 is not UTF-8")),
    Input("a NUL byte in CSV", csv("q?,a\0b"), line(2, "NUL")),
    Input("half a surrogate pair in CSV", csv(b"q?,a\xed\xa0\x80b"), line(2, "0xed is not UTF-8")),
    Input("an unclosed quote", csv('q?,"a'), line(2, "record that begins here is broken")),
    Input("text behind a closing quote", csv('q?,"a"b'), line(2, "record that begins here is broken")),
    Input("a row with a field too many", csv("q?,a,b"), line(2, "found 3 fields, but the header has 2")),
    Input("a row with a field too few", csv("q?"), line(2, "found 1 fields, but the header has 2")),
    Input(
        "semicolons",
        plain("question;answer\n" + "".join(f"{row['question']};{row['answer']}, so.\n" for row in SOUND)),
        Read(N_SOUND, holds="harmless., so."),
    ),
    Input("semicolons below commas", csv("q?;a"), line(2, "found 1 fields")),
    Input("a missing column", csv(header="question,reply"), Refused(("'answer'", "it has 'question', 'reply'"))),
    Input(
        "the same column twice",
        csv(header="question,answer,answer", extra=",x"),
        Refused(("2 columns called 'answer' for 'answer'",)),
    ),
    Input(
        "columns that differ in case alone",
        csv(header="question,answer,Answer", extra=",x"),
        Refused(("'answer', 'Answer'", "for 'answer'")),
    ),
    Input("no header", csv(header="q?,a"), Refused(("no column for 'question'", "'q?'"))),
    Input("the header a second time", csv("q?,a", "question,answer"), line(3, "header")),
    Input("blank lines", csv("", "", "q?,a", ""), Read()),
    Input("a row of commas alone", csv(",", " , "), Read(N_SOUND + 2, {"empty_answer": 2})),
    Input("an empty question", csv(",An answer.", " \t,Another."), Read(N_SOUND + 2, {"empty_question": 2})),
    Input("line ends of an old Mac", plain("question,answer\ra?,x\rb?,y\rc?,z\r"), Read(3)),
    Input("the same id twice", csv("q?,a,2", header="question,answer,id", extra=",{n}"), line(5, "'2'", "line 2")),
    Input("an empty id", csv("q?,a, ", header="question,answer,id", extra=",{n}"), line(2, "the id is empty")),
    Input("an answer of 1 MB in CSV", csv(f"q?,{LONG}"), Read(holds=LONG)),
    Input("right to left and combining in CSV", csv(f'q?,"{HEBREW}"'), Read(holds=HEBREW, said="control")),
    Input("emoji", csv(f"q?,{EMOJI}"), Read(holds=EMOJI)),
    Input("an answer of emoji alone", csv("q?,\U0001f44d\U0001f3fd"), Read(counted={"unscorable_answer": 1})),
    Input("an answer of signs alone", csv("q?,—"), Read(counted={"unscorable_answer": 1})),
    Input("a control character in CSV", csv("q?,a\x07b"), Read(holds="a\x07b", said="1 pairs hold control characters")),
    Input("the replacement character", csv("q?,Tir\ufffd"), Read(said="1 pairs hold the replacement character")),
    Input("a formula", csv("q?,=1+1"), Read(holds="=1+1")),
    Input("a mapped column that is not there", csv(), Refused(("'reply'",)), corpus={"columns": {"answer": "reply"}}),
    Input(
        "a mapped field that is none",
        csv(),
        Refused(("'anser'",), ConfigError, names_path=False),
        corpus={"columns": {"anser": "answer"}},
    ),
    Input("a gzipped table", plain(b"\x1f\x8b\x08", "corpus.csv.gz"), Refused(("ends in '.gz'",))),
]

JSONL = [
    Input("a broken line", jsonl('{"question": "q?", "answer": "a'), line(1, "not JSON")),
    Input("an array of objects", plain(json.dumps(SOUND), "corpus.jsonl"), line(1, "found a list, not an object")),
    Input("JSON over many lines", plain(json.dumps(SOUND, indent=1), "corpus.jsonl"), line(1, "not JSON")),
    Input("a bare text", jsonl('"q?"'), line(1, "found a str, not an object")),
    Input("a row without an answer", jsonl('{"question": "q?"}'), line(1, "the row has no 'answer'")),
    Input("null for an answer", jsonl('{"question": "q?", "answer": null}'), Read(counted={"empty_answer": 1})),
    Input("NaN for an answer", jsonl('{"question": "q?", "answer": NaN}'), Read(counted={"empty_answer": 1})),
    Input("a list for an answer", jsonl('{"question": "q?", "answer": ["a"]}'), line(1, "'answer'", "found a list")),
    Input("true for an answer", jsonl('{"question": "q?", "answer": true}'), line(1, "'answer'", "found a bool")),
    Input(
        "a key twice in a row", jsonl('{"question": "q?", "answer": "a", "answer": "b"}'), line(1, "'answer'", "twice")
    ),
    Input("half a surrogate pair in JSON", jsonl('{"question": "q?", "answer": "\\ud83d"}'), line(1, "surrogate")),
    Input("a NUL in JSON", jsonl('{"question": "q?", "answer": "\\u0000"}'), line(1, "NUL")),
    Input("a BOM between two joined files", jsonl("", "\ufeff" + json.dumps(SOUND[0])), line(2, "not JSON", "BOM")),
    Input("a number of 5,000 digits", jsonl(f'{{"question": "q?", "answer": {"1" * 5000}}}'), line(1, "not JSON")),
    Input("100,000 nested lists", jsonl("[" * 10**5), line(1, "not JSON")),
    Input("a table called .json", jsonl(name="corpus.json"), Refused(("ends in '.json'",))),
]

PARQUET = [
    Input("bytes for text", parquet(answer=[b"a"] * N_SOUND), Refused(("row 1, 'answer': found a bytes",))),
    Input("lists for text", parquet(answer=[["a"]] * N_SOUND), Refused(("row 1, 'answer': found a list",))),
    Input("records for text", parquet(answer=[{"a": "b"}] * N_SOUND), Refused(("row 1, 'answer': found a dict",))),
    Input("times for text", parquet(answer=[datetime.datetime(2024, 1, 1)] * N_SOUND), Refused(("a datetime",))),
    Input("decimals for text", parquet(answer=[Decimal("1.5")] * N_SOUND), Refused(("row 1, 'answer': found a Dec",))),
    Input("numbers for text", parquet(answer=list(range(N_SOUND))), Read(N_SOUND, holds="5")),
    Input("a dictionary column", parquet(answer=pa.array(list("abcdef")).dictionary_encode()), Read(N_SOUND)),
    Input("a column of nulls", parquet(focus=pa.nulls(N_SOUND)), Read(N_SOUND)),
    Input("a column with a dot in its name", parquet({"a.q": list("abc"), "answer": list("xyz")}), Read(3),
          corpus={"columns": {"question": "a.q"}}),
    Input("no rows", parquet({"question": pa.array([], pa.string()), "answer": pa.array([], pa.string())}),
          Refused(("empty corpus",))),
    Input("Parquet without answers", parquet({"question": ["q"]}), Refused(("'answer'", "it has 'question'"))),
    Input("truncated Parquet", patched(parquet(), halve), Refused(("not a sound Parquet file",))),
    Input("Parquet text that is not UTF-8", parquet_not_utf8, Refused(("not a sound Parquet file",))),
]  # fmt: skip

WHOLE = [
    Input("one group only", rows([{**row, "focus": "x"} for row in SOUND]),
          Refused(("three groups, found 1 in 6 pairs", "share the focus 'x'"), names_path=False)),
    Input("fewer pairs than splits", rows(SOUND[:2]), Refused(("2 pairs cannot be divided",), names_path=False)),
    Input("one pair", rows(SOUND[:1]), Refused(("1 pairs cannot be divided",), names_path=False)),
    Input("only duplicates", rows(SOUND[:1] * 5), Refused(("1 pairs cannot be divided",), names_path=False)),
    Input("many duplicates", rows(SOUND * 3), Read(3 * N_SOUND, {"duplicate": 2 * N_SOUND})),
    Input("a question type with one pair",
          rows([{**row, "qtype": "rare" if n == 0 else "common"} for n, row in enumerate(SOUND)]), Read(N_SOUND)),
    Input("nothing but empty answers", rows([{**row, "answer": " "} for row in SOUND]),
          Refused(("none of the 6 pairs", "empty_answer 6"), names_path=False)),
    Input("nothing left of several kinds", rows([{**SOUND[0], "answer": "Topics"}, {**SOUND[1], "answer": ""}]),
          Refused(("none of the 2 pairs", "empty_answer 1", "junk_answer 1"), names_path=False)),
    Input("answers that repeat the question", rows([{**row, "answer": row["question"]} for row in SOUND]),
          Refused(("none of the 6 pairs", "question_repeat 6"), names_path=False)),
    Input("a corpus in another script", rows([{**row, "answer": "休息を取る。" * n} for n, row in enumerate(SOUND, 1)]),
          Refused(("none of the 6 pairs", "unscorable_answer 6"), names_path=False)),
    Input("one answer in another script", rows([*SOUND, {"question": "q?", "answer": "休息を取る。"}]),
          Read(counted={"unscorable_answer": 1})),
    Input("one question in two Unicode forms",
          rows([*SOUND, {"question": "Is caf\u00e9 bad?", "answer": "No."},
                {"question": "Is cafe\u0301 bad?", "answer": "Yes."}]),
          Read(N_SOUND + 2)),
    Input("one answer to all", rows([{**row, "answer": "Ask a doctor."} for row in SOUND]),
          Refused(("pair is left", "also stands in train"), names_path=False)),
    Input("one answer to all, kept", rows([{**row, "answer": "Ask a doctor."} for row in SOUND]), Read(N_SOUND),
          split={"exclude_shared_answers": False}),
]  # fmt: skip

TABLE = [*XML, *ARCHIVES, *CSV, *JSONL, *PARQUET, *WHOLE]
