"""From a path to pairs: finds out what kind of corpus it is and hands it to the reader for that kind."""

import re
import zipfile
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal

from vademecum.config import CorpusConfig
from vademecum.corpus.medquad import corpus_files, read_medquad
from vademecum.corpus.tables import column_mapping, read_table
from vademecum.errors import CorpusError, SourceError
from vademecum.files import digest_file, digest_files
from vademecum.records import QAPair

Format = Literal["medquad", "csv", "jsonl", "parquet"]

_ENDINGS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".zip": "medquad",  # one that is damaged, or no zip at all: its first bytes would have told
}
_SPREADSHEETS = (".xls", ".xlsx", ".xlsm", ".ods")
_KINDS = "a MedQuAD zip or folder, or a CSV, JSONL or Parquet file"
_REMARKABLE = {
    "what looks like HTML tags": re.compile(
        r"</?(?:a|b|br|div|em|h[1-6]|i|img|li|ol|p|script|span|strong|table|td|tr|ul)\b[^<>]*>", re.IGNORECASE
    ),
    "control characters": re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]"),
    "the replacement character U+FFFD, a sign of text that was decoded wrongly": re.compile("\ufffd"),
}


def load_corpus(path: Path, config: CorpusConfig, say: Callable[[str], object] = lambda _: None) -> list[QAPair]:
    """Read all pairs of a corpus, uncleaned, each with an id of its own.

    `config.format` says how to read it; with `auto` a zip and a Parquet file are known by their first bytes, a
    folder by the XML in it, and the others by the name's ending. `say` is told what is left out, and how many pairs
    hold HTML tags, control characters or U+FFFD, which are kept as they are.

    Raises:
        SourceError: there is nothing at `path`.
        CorpusError: the corpus is broken, empty, or of no known kind.
        ConfigError: `config.columns` names a field that does not exist.
    """
    if not path.exists():
        raise SourceError(f"there is no file or folder at {str(path)!r}", hint=f"give the path of {_KINDS}")
    form: Format = _recognise(path) if config.format == "auto" else config.format
    pairs = read_medquad(path, say) if form == "medquad" else read_table(path, form, config.columns)
    if not pairs:
        raise CorpusError(f"{path} is an empty corpus: it holds no rows", hint=f"give the path of {_KINDS}")
    for found, pattern in _REMARKABLE.items():
        count = sum(bool(pattern.search(pair.question) or pattern.search(pair.answer)) for pair in pairs)
        if count:
            say(f"{count} pairs hold {found}; they are kept as they are")
    return pairs


def digest_corpus(path: Path) -> str:
    """SHA-256 of what `load_corpus` reads: a file, or the XML files of a folder.

    Raises:
        CorpusError: it cannot be read.
    """
    try:
        return digest_files(path, corpus_files(path)) if path.is_dir() else digest_file(path)
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error}", hint="check the file's permissions") from None


def mapped_columns(path: Path, config: CorpusConfig) -> dict[str, str]:
    """Our fields and the table's columns that they are read from; empty for MedQuAD. Errors as in `load_corpus`."""
    if not path.exists():
        raise SourceError(f"there is no file or folder at {str(path)!r}", hint=f"give the path of {_KINDS}")
    form: Format = _recognise(path) if config.format == "auto" else config.format
    return {} if form == "medquad" else column_mapping(path, form, config.columns)


def missing_fields(pairs: Sequence[QAPair]) -> list[str]:
    """Name those of qtype, focus, document, source and cuis that no pair has, so that what needs them falls away."""
    present = {
        "qtype": any(pair.qtype for pair in pairs),
        "focus": any(pair.focus for pair in pairs),
        "document": any(pair.document for pair in pairs),
        "source": any(pair.source for pair in pairs),
        "cuis": any(pair.cuis for pair in pairs),
    }
    return [name for name, is_present in present.items() if not is_present]


def sample_path() -> Path:
    """Where the corpus that ships with the package lies: JSONL, one pair a line."""
    return Path(str(files("vademecum") / "corpus" / "sample" / "pairs.jsonl"))


def _recognise(path: Path) -> Format:
    if path.is_dir():
        return _recognise_folder(path)
    ending = path.suffix.lower()
    if ending in _SPREADSHEETS:
        raise CorpusError(f"{path} is a spreadsheet, which is not read", hint="save its sheet as CSV in UTF-8")
    if ending == ".xml":
        raise CorpusError(f"{path} is a single XML file", hint="give MedQuAD's zip, or the folder that holds the file")
    try:
        if zipfile.is_zipfile(path):
            return "medquad"
        with path.open("rb") as stream:
            start = stream.read(4)
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error}", hint="check the file's permissions") from None
    if start == b"PAR1":
        return "parquet"
    if ending not in _ENDINGS:
        raise CorpusError(
            f"{path} ends in {ending!r}, and its content does not tell what it is",
            hint="set corpus.format to medquad, csv, jsonl or parquet",
        )
    return _ENDINGS[ending]


def _recognise_folder(path: Path) -> Format:
    if corpus_files(path):
        return "medquad"
    names = sorted(file.name for file in path.iterdir())
    found = ", ".join(repr(name) for name in names[:8]) + (" …" if len(names) > 8 else "")
    raise CorpusError(
        f"{path} is a folder without XML files; it holds {found or 'nothing'}",
        hint="give MedQuAD's folder, or the path of one table inside this one",
    )
