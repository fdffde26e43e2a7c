"""CSV, JSONL and Parquet to question-answer pairs, with a mapping from our fields to the table's columns."""

import csv
import io
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal, NoReturn

from vademecum.errors import ConfigError, CorpusError
from vademecum.records import QAPair

# For each of our fields the column names that it is known by, best first. The ids of documents and questions in
# tables made from MedQuAD are left out on purpose: across its folders they clash.
_KNOWN_NAMES = {
    "question": ("question",),
    "answer": ("answer",),
    "focus": ("focus", "focus_area", "question_focus", "topic"),
    "qtype": ("qtype", "question_type"),
    "source": ("source", "document_source"),
    "url": ("url", "document_url"),
    "document": ("document",),
    "id": ("id",),
    "cuis": ("cuis", "umls_cui", "cui"),
    "semantic_group": ("semantic_group", "umls_semantic_group"),
}
_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True, slots=True)
class _Table:
    names: list[str]
    rows: list[tuple[str, Mapping[str, object]]]
    """Place (file and line) and cells by column."""


def read_table(path: Path, format: Literal["csv", "jsonl", "parquet"], columns: Mapping[str, str]) -> list[QAPair]:
    """Read every row of a table as a pair, in the order of the file.

    `columns` maps our field to a column's name; a field that is not in it is looked for by `guess_columns`, and one
    mapped to "" is left empty. CSV is UTF-8 with a header; its delimiter is the one of comma, semicolon and tab
    under which the header makes most sense. A pair without an id column gets the first 12 hexadecimal digits of the
    SHA-256 of question, answer and focus (white space collapsed); equal ones get -2, -3 in the order of their other
    fields, so that ids do not depend on the order of rows.

    Raises:
        CorpusError: a file that is broken or lacks a needed column; names the file and the line (Parquet: the row).
        ConfigError: `columns` has a key that is not one of our fields.
    """
    unknown = sorted(columns.keys() - _KNOWN_NAMES.keys())
    if unknown:
        raise ConfigError(
            f"corpus.columns maps {unknown[0]!r}, which is not a field of a pair",
            hint=f"the fields are {', '.join(_KNOWN_NAMES)}",
        )
    table = _open(path, format, columns)
    if not table.rows and not table.names:
        return []
    mapping = _map_columns(table.names, columns, path)
    pairs = [_pair(cells, mapping, place) for place, cells in table.rows]
    if "id" in mapping:
        _check_ids(pairs, [place for place, _ in table.rows])
        return pairs
    return _with_content_ids(pairs)


def column_mapping(
    path: Path, format: Literal["csv", "jsonl", "parquet"], columns: Mapping[str, str]
) -> dict[str, str]:
    """Our fields and the columns that `read_table` would take them from; errors as there."""
    return _map_columns(_open(path, format, columns).names, columns, path)


def guess_columns(names: Sequence[str]) -> dict[str, str]:
    """Find the columns of our fields by their usual names; case, spaces and hyphens in a name do not matter.

    Returns field to column name, for the fields that were found.
    """
    by_name: dict[str, str] = {}
    for name in names:
        by_name.setdefault(_plain_name(name), name)
    found = {}
    for field, known in _KNOWN_NAMES.items():
        match = next((by_name[name] for name in known if name in by_name), None)
        if match is not None:
            found[field] = match
    return found


def _plain_name(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.strip().casefold())


def _open(path: Path, format: str, columns: Mapping[str, str]) -> _Table:
    readers: dict[str, Callable[[Path, Mapping[str, str]], _Table]] = {
        "csv": _read_csv,
        "jsonl": _read_jsonl,
        "parquet": _read_parquet,
    }
    try:
        return readers[format](path, columns)
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error}", hint=f"give a readable {format} file") from None


def _map_columns(names: Sequence[str], columns: Mapping[str, str], path: Path) -> dict[str, str]:
    listing = ", ".join(repr(name) for name in names) or "none"
    for field, column in columns.items():
        if column and column not in names:
            raise CorpusError(
                f"{path} has no column {column!r}, which corpus.columns gives for {field!r}; it has {listing}",
                hint=f"set corpus.columns.{field} to one of the columns found",
            )
    guessed = {field: name for field, name in guess_columns(names).items() if name not in columns.values()}
    mapping = {field: name for field, name in {**guessed, **columns}.items() if name}
    for field, name in guessed.items():
        alike = [other for other in names if _plain_name(other) == _plain_name(name)]
        if field not in columns and len(set(alike)) > 1:
            raise CorpusError(
                f"{path} has the columns {', '.join(map(repr, alike))}, each of which could be meant for {field!r}",
                hint=f"set corpus.columns.{field} to one of them",
            )
    for field in ("question", "answer"):
        if field not in mapping:
            raise CorpusError(
                f"{path} has no column for {field!r}; it has {listing}",
                hint=f"set corpus.columns.{field} to the name of the column that holds it; for vade init, "
                f"--column {field}=NAME",
            )
    for field, name in mapping.items():
        if names.count(name) > 1:
            raise CorpusError(
                f"{path} has {names.count(name)} columns called {name!r} for {field!r}",
                hint="give each column its own name",
            )
    return mapping


def _pair(cells: Mapping[str, object], mapping: Mapping[str, str], place: str) -> QAPair:
    for field in ("question", "answer"):
        if mapping[field] not in cells:
            _broken(
                place, f"the row has no {mapping[field]!r}", "give every row a question and an answer, even if empty"
            )
    values = {field: cells.get(column) for field, column in mapping.items()}
    texts = {field: _text(value, f"{place}, {mapping[field]!r}") for field, value in values.items() if field != "cuis"}
    for field in texts.keys() - {"question", "answer", "focus"}:
        texts[field] = texts[field].strip()
    cuis = _cuis(values.get("cuis"), f"{place}, {mapping.get('cuis')!r}")
    return QAPair.model_validate({"id": "", **texts, "cuis": cuis})


def _text(value: object, place: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        _broken(place, f"found a {type(value).__name__}, not text", "give one text per field")
    text = str(value)
    if "\0" in text:
        _broken(place, "found a NUL character", "remove it; text does not contain it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        _broken(place, f"found half a surrogate pair: {error.object[error.start]!r}", "write the file as valid UTF-8")
    return text


def _cuis(value: object, place: str) -> tuple[str, ...]:
    # Brackets and quotes: pandas writes a list into CSV as Python shows it.
    parts = value if isinstance(value, list) else re.split(r"[\s,;|\[\](){}'\"]+", _text(value, place))
    texts = (_text(part, place).strip() for part in parts)
    return tuple(dict.fromkeys(text for text in texts if text))


def _check_ids(pairs: Sequence[QAPair], places: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    hint = 'make the ids unique, or set corpus.columns.id to "" and let them be made from the content'
    for pair, place in zip(pairs, places, strict=True):
        if not pair.id:
            _broken(place, "the id is empty", hint)
        if pair.id in seen:
            _broken(place, f"the id {pair.id!r} stands already in {seen[pair.id]}", hint)
        seen[pair.id] = place


def _with_content_ids(pairs: Sequence[QAPair]) -> list[QAPair]:
    positions: defaultdict[str, list[int]] = defaultdict(list)
    for position, pair in enumerate(pairs):
        content = "\0".join(" ".join(text.split()) for text in (pair.question, pair.answer, pair.focus))
        positions[sha256(content.encode()).hexdigest()[:12]].append(position)
    ids: dict[int, str] = {}
    for digest, repeats in positions.items():
        for number, position in enumerate(sorted(repeats, key=lambda at: pairs[at].model_dump_json()), start=1):
            ids[position] = digest if number == 1 else f"{digest}-{number}"
    return [pair.model_copy(update={"id": ids[position]}) for position, pair in enumerate(pairs)]


def _broken(place: str, found: str, hint: str) -> NoReturn:
    raise CorpusError(f"{place}: {found}", hint=hint)


def _decode(path: Path) -> str:
    data = path.read_bytes()
    nul = data.find(b"\0")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        found = f"the byte 0x{data[error.start]:02x} is not UTF-8"
        raise CorpusError(f"{path}, line {line}: {found}", hint="save the file in the encoding UTF-8") from None
    if nul >= 0:
        line = data[:nul].count(b"\n") + 1
        _broken(f"{path}, line {line}", "found a NUL byte", "save the file as plain text in the encoding UTF-8")
    return text


def _read_csv(path: Path, columns: Mapping[str, str]) -> _Table:
    text = _decode(path)
    former_limit = csv.field_size_limit(max(len(text), 1))  # the module's own limit, 131,072, is for the process
    try:
        delimiter = max(_DELIMITERS, key=lambda delimiter: _fit(text, delimiter, columns))
        records = _records(text, delimiter, path)
    finally:
        csv.field_size_limit(former_limit)
    if not records:
        return _Table([], [])
    _, header = records[0]
    names = [name.strip() for name in header]
    rows: list[tuple[str, Mapping[str, object]]] = []
    for place, cells in records[1:]:
        if len(cells) != len(names):
            _broken(
                place, f"found {len(cells)} fields, but the header has {len(names)}", "quote fields that hold commas"
            )
        if cells == header:
            _broken(place, "found the header a second time", "take it out, as of a file that was joined from several")
        rows.append((place, dict(zip(names, cells, strict=True))))
    return _Table(names, rows)


def _fit(text: str, delimiter: str, columns: Mapping[str, str]) -> tuple[int, int]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    names = next(filter(None, reader), [])
    wanted = sum(column in names for column in columns.values())
    return wanted + len(guess_columns(names)), len(names)


def _records(text: str, delimiter: str, path: Path) -> list[tuple[str, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    records: list[tuple[str, list[str]]] = []
    place = f"{path}, line 1"
    try:
        for cells in reader:
            if cells:
                records.append((place, cells))
            place = f"{path}, line {reader.line_num + 1}"
    except csv.Error as error:
        _broken(place, f"the record that begins here is broken: {error}", "close every quote, and double those inside")
    return records


def _unique(members: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in members:
        if name in found:
            raise ValueError(f"the key {name!r} stands twice in one object")
        found[name] = value
    return found


def _read_jsonl(path: Path, _columns: Mapping[str, str]) -> _Table:
    names: dict[str, None] = {}
    rows: list[tuple[str, Mapping[str, object]]] = []
    for number, line in enumerate(_decode(path).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            cells = json.loads(line, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            _broken(place, f"not JSON: {error}", "write one JSON object per line")
        if not isinstance(cells, dict):
            _broken(place, f"found a {type(cells).__name__}, not an object", "write one JSON object per line")
        names.update(dict.fromkeys(cells))
        rows.append((place, cells))
    return _Table(list(names), rows)


def _read_parquet(path: Path, columns: Mapping[str, str]) -> _Table:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    rows: list[tuple[str, Mapping[str, object]]] = []
    try:
        with ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            wanted = sorted(set(_map_columns(names, columns, path).values()))
            for batch in file.iter_batches(columns=wanted):
                cells = batch.to_pylist()
                rows.extend((f"{path}, row {at}", row) for at, row in enumerate(cells, start=len(rows) + 1))
    except (ArrowException, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} is not a sound Parquet file: {error}", hint="write the file again") from None
    return _Table(names, rows)
