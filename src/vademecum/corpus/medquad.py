"""MedQuAD's XML, from its zip or from a folder, to question-answer pairs; only this file knows the XML.

A document, shortened:

    <Document id="0000001" source="NIDDK" url="https://…">
      <Focus>…</Focus>
      <FocusAnnotations>
        <UMLS><CUIs><CUI>C0000000</CUI></CUIs> <SemanticGroup>Disorders</SemanticGroup></UMLS>
      </FocusAnnotations>
      <QAPairs>
        <QAPair pid="1"><Question qid="0000001-1" qtype="information">…</Question> <Answer>…</Answer></QAPair>
      </QAPairs>
    </Document>

In `9_CDC_QA` the UMLS element stands directly below the root and holds a plain CUI; one file there calls its root
DiseaseFile. Four files of `6_NINDS_QA` are in an older layout, with the root `doc` and 16 `pair` elements. They are
left out and said to be, as in the counts that are published for work on MedQuAD (16,404 usable answers), so that
results compare; they are the difference between the 47,457 pairs of the collection's own read-me and the 47,441 read
here.
"""

import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NoReturn
from xml.etree.ElementTree import Element, ParseError, TreeBuilder
from xml.parsers.expat import ErrorString

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import XMLParser

from vademecum.errors import CorpusError
from vademecum.records import QAPair

MAX_FILE_BYTES = 64 * 2**20
"""Largest XML file that is read; MedQuAD's own largest has 60 kB."""
MAX_TOTAL_BYTES = 2 * 2**30
"""Most XML in one archive, uncompressed; MedQuAD has 36 MB."""
MAX_COMPRESSION = 200
"""Highest ratio of uncompressed to compressed size; MedQuAD's own highest is 13."""

_ROOTS = ("Document", "DiseaseFile")
_OLDER_ROOT, _OLDER_PAIR = "doc", "pair"
_AGAIN = "unpack or download the archive again"


@dataclass(frozen=True, slots=True)
class _File:
    document: str
    place: str
    read: Callable[[], bytes]


class _LineBuilder(TreeBuilder):
    """Builds the tree and remembers where each element began, for errors that only show after parsing."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[Element, int] = {}
        self.current_line: Callable[[], int] = lambda: 1

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        element = super().start(tag, attrs)
        self.lines[element] = self.current_line()
        return element


def read_medquad(path: Path, say: Callable[[str], object] = lambda _: None) -> list[QAPair]:
    """Read every pair of a MedQuAD zip or folder, those without an answer included.

    The id is folder, file stem and pid (`9_CDC_QA/0000004#1`), whatever stands above that folder and whether it is
    zipped. Order: by document, then as in the file. Nothing is extracted from a zip. Texts are left as they are
    written; cleaning comes later. `say` is told what is left out, if anything is.

    Raises:
        CorpusError: an empty, unsafe, encrypted, oversized or broken archive or file; names the file and, in XML, the
            line.
    """
    if path.is_dir():
        return _read_files(list(_folder_files(path)), path, say)
    try:
        with zipfile.ZipFile(path) as archive:
            files = list(_zip_files(archive, path))
            if not files:
                names = [repr(name) for name in archive.namelist()]
                found = ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
                raise CorpusError(
                    f"{path} is an empty corpus: it has no XML files and holds {found or 'nothing'}",
                    hint="unpack it, and give the path of what is to be read",
                )
            return _read_files(files, path, say)
    except (zipfile.BadZipFile, OSError, NotImplementedError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} cannot be read as a zip or folder: {error}", hint=_AGAIN) from None


def _read_files(files: Sequence[_File], path: Path, say: Callable[[str], object]) -> list[QAPair]:
    pairs: list[QAPair] = []
    older: list[int] = []
    previous: _File | None = None
    for file in sorted(files, key=lambda file: (file.document, file.place)):
        if previous is not None and file.document == previous.document:
            raise CorpusError(
                f"{file.place} and {previous.place} are both the document {file.document!r}",
                hint="give an archive or a folder that holds MedQuAD once",
            )
        root, lines = _parse(file)
        if root.tag == _OLDER_ROOT:
            older.append(sum(1 for _ in root.iter(_OLDER_PAIR)))
        else:
            pairs.extend(_read_document(file, root, lines))
        previous = file
    left_out = f"{sum(older)} pairs of {len(older)} files in MedQuAD's older layout"
    if not pairs:
        found = f"{len(files)} XML files" + (f", with {left_out}, which is not read" if older else "")
        raise CorpusError(
            f"{path} is an empty corpus: it holds no pair in {found}",
            hint="give the path of MedQuAD's zip or folder",
        )
    if older:
        say(f"{left_out} are left out")
    return pairs


def corpus_files(folder: Path) -> list[Path]:
    """The files of a folder, and of those in it, that `read_medquad` reads: its XML, but for what is hidden.

    Raises:
        CorpusError: a folder cannot be looked into.
    """

    def refuse(error: OSError) -> NoReturn:
        raise CorpusError(f"{error.filename} cannot be read: {error}", hint="check the folder's permissions") from None

    walked = (Path(place, name) for place, _, names in os.walk(folder, onerror=refuse) for name in names)
    return [file for file in walked if _is_corpus_file(file.relative_to(folder).as_posix()) and file.is_file()]


def _folder_files(path: Path) -> Iterator[_File]:
    for file in corpus_files(path):
        document = _document(file.relative_to(path).as_posix(), path.resolve().name)
        if re.search("[\ud800-\udfff]", document):  # how Python shows bytes of a name that are not UTF-8
            _refuse(repr(str(file)), "has a name that is not UTF-8")
        yield _File(document, str(file), partial(_read_plain, file))


def _read_plain(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CorpusError(f"{file} cannot be read: {error}", hint="check the file's permissions") from None
    if len(data) > MAX_FILE_BYTES:
        _refuse(str(file), f"has more than the {MAX_FILE_BYTES:,} bytes that a MedQuAD document may have")
    return data


def _zip_files(archive: zipfile.ZipFile, path: Path) -> Iterator[_File]:
    total = 0
    for member in archive.infolist():
        name, place = member.filename.replace("\\", "/"), f"{member.filename!r} in {path}"
        if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in name.split("/"):
            _refuse(place, "has a path that leads out of the archive")
        if not _is_corpus_file(name):
            continue
        _check_member(member, place)
        total += member.file_size
        if total > MAX_TOTAL_BYTES:
            _refuse(place, f"brings the XML of the archive above {MAX_TOTAL_BYTES:,} bytes")
        document = _document(name, path.stem)
        yield _File(document, place, partial(_read_member, archive, member, place))


def _check_member(member: zipfile.ZipInfo, place: str) -> None:
    if member.flag_bits & 1:
        _refuse(place, "is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # The decoders of the other methods raise errors of their own, and take memory as the archive demands.
        _refuse(place, f"is compressed by the method {member.compress_type}; only stored and deflated (8) are read")
    if member.file_size > MAX_FILE_BYTES:
        _refuse(place, f"has {member.file_size:,} bytes, more than the {MAX_FILE_BYTES:,} that a document may have")
    if member.file_size > MAX_COMPRESSION * max(member.compress_size, 1):
        _refuse(place, f"unpacks from {member.compress_size:,} to {member.file_size:,} bytes, as a zip bomb does")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, place: str) -> bytes:
    try:
        with archive.open(member) as stream:
            # A bounded read: without a size zipfile would inflate past the size that the member declares.
            return stream.read(member.file_size + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        reason = str(error) or "it ends too early"  # an EOFError has no text
        raise CorpusError(f"{place} is damaged: {reason}", hint=_AGAIN) from None


def _refuse(place: str, reason: str) -> NoReturn:
    raise CorpusError(f"{place} {reason}", hint="use the archive as the authors of MedQuAD publish it")


def _is_corpus_file(name: str) -> bool:
    parts = name.split("/")
    # macOS puts a hidden twin of each file into the zips that it makes.
    return parts[-1].lower().endswith(".xml") and not any(part.startswith((".", "__MACOSX")) for part in parts)


def _document(name: str, container: str) -> str:
    path = PurePosixPath(name)
    return f"{path.parent.name or container}/{path.stem}"


def _read_document(file: _File, root: Element, lines: Mapping[Element, int]) -> list[QAPair]:
    if root.tag not in _ROOTS:
        raise CorpusError(
            f"{file.place}, line {lines[root]}: found the root element {root.tag!r}, not {' or '.join(_ROOTS)}",
            hint="leave only MedQuAD's own XML files in the folder or archive",
        )
    focus, cuis = _text(root.find("Focus")), (_text(cui).strip() for cui in root.iter("CUI"))
    shared = QAPair(
        id=file.document,
        question="",
        answer="",
        focus=focus,
        source=root.get("source", "").strip(),
        url=root.get("url", "").strip(),
        document=file.document,
        cuis=tuple(dict.fromkeys(cui for cui in cuis if cui)),
        semantic_group=_text(root.find(".//SemanticGroup")).strip(),
    )
    pairs: dict[str, QAPair] = {}
    in_place = set(root.iterfind("QAPairs/QAPair"))
    for element in root.iter("QAPair"):
        place = f"{file.place}, line {lines[element]}"
        if element not in in_place:
            _malformed(place, "a QAPair stands outside QAPairs")
        pair = _read_pair(element, shared, place)
        if pair.id in pairs:
            _malformed(place, f"the pid {element.get('pid')!r} stands a second time in this document")
        pairs[pair.id] = pair
    return list(pairs.values())


def _read_pair(element: Element, shared: QAPair, place: str) -> QAPair:
    pid = element.get("pid", "").strip()
    if not pid:
        _malformed(place, "a QAPair has no pid")
    questions, answers = element.findall("Question"), element.findall("Answer")
    if len(questions) != 1 or len(answers) != 1:
        found = f"{len(questions)} Question and {len(answers)} Answer elements"
        _malformed(place, f"the QAPair with pid {pid!r} has {found}, not one of each")
    for text in (questions[0], answers[0]):
        if len(text):
            # Without its tags the text would run together: <p>a</p><p>b</p> to ab.
            _malformed(place, f"the {text.tag} of the pid {pid!r} holds the element {text[0].tag!r}, not text alone")
    return shared.model_copy(
        update={
            "id": f"{shared.document}#{pid}",
            "question": _text(questions[0]),
            "answer": _text(answers[0]),
            "qtype": questions[0].get("qtype", "").strip(),
        }
    )


def _malformed(place: str, found: str) -> NoReturn:
    raise CorpusError(f"{place}: {found}", hint="correct the file, or take it from the published archive again")


def _text(element: Element | None) -> str:
    return "" if element is None else "".join(element.itertext())


def _parse(file: _File) -> tuple[Element, dict[Element, int]]:
    builder = _LineBuilder()
    parser = XMLParser(target=builder, forbid_dtd=True, forbid_entities=True, forbid_external=True)
    builder.current_line = lambda: int(parser.parser.CurrentLineNumber)
    try:
        parser.feed(file.read())
        root: Element = parser.close()
    except DefusedXmlException as error:
        place = f"{file.place}, line {builder.current_line()}"
        raise CorpusError(
            f"{place}: found {error}", hint="remove the document type; entities and external references are not read"
        ) from None
    except ParseError as error:
        line, column = error.position
        _malformed(f"{file.place}, line {line}, column {column + 1}", f"the XML is broken: {ErrorString(error.code)}")
    except (LookupError, ValueError) as error:
        _malformed(f"{file.place}, line 1", f"the XML's encoding cannot be read: {error}")
    return root, builder.lines
