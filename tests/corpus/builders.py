"""Writes corpora for `bad_inputs.py`: each has something odd in it, among six pairs that are sound."""

import io
import json
import stat
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Build = Callable[[Path], Path]
"""Writes a corpus into a folder and returns its path."""

N_SOUND = 6
SOUND = [{"question": f"What is state {n}?", "answer": f"State {n} is harmless."} for n in range(N_SOUND)]
XML_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'


def pair(answer: str, question: str = "What is hay fever?", pid: str = "1") -> str:
    return (
        f'<QAPair pid="{pid}"><Question qtype="information">{question}</Question>\n<Answer>{answer}</Answer></QAPair>'
    )


def document(pairs: str, focus: str = "Hay fever", head: str = XML_HEAD) -> str:
    """Pairs begin on line 3, the answer of the first on line 4."""
    return f'{head}<Document source="S" url="u"><Focus>{focus}</Focus>\n<QAPairs>{pairs}</QAPairs></Document>\n'


def sound_documents() -> dict[str, str | bytes]:
    return {
        f"2_B/{n}.xml": document(pair(row["answer"], row["question"]), focus=f"State {n}")
        for n, row in enumerate(SOUND)
    }


def zipped(members: Mapping[str, str | bytes], method: int = zipfile.ZIP_DEFLATED, name: str = "corpus.zip") -> Build:
    """A zip of exactly these members."""

    def build(folder: Path) -> Path:
        with zipfile.ZipFile(folder / name, "w", method) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        return folder / name

    return build


def with_member(name: str, content: str | bytes, method: int = zipfile.ZIP_DEFLATED) -> Build:
    """A sound zip with one member more."""
    return zipped({**sound_documents(), name: content}, method)


def xml(content: str | bytes) -> Build:
    """A sound zip with one document more."""
    return with_member("1_A/1.xml", content)


def patched(build: Build, change: Callable[[bytearray], object]) -> Build:
    """The file of another builder with its bytes changed in place."""

    def build_and_change(folder: Path) -> Path:
        path = build(folder)
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(data)
        return path

    return build_and_change


def encrypt(data: bytearray) -> None:
    """Sets the flag of the first member, as in an encrypted zip."""
    data[data.index(b"PK\x01\x02") + 8] |= 1


def understate(data: bytearray) -> None:
    """Lets the first member declare ten bytes."""
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (10).to_bytes(4, "little")


def flip(data: bytearray) -> None:
    """Damages the content of the first member, which is stored as it is."""
    data[data.index(b"harmless")] ^= 1


def unname(data: bytearray) -> None:
    """Takes the name of the member `Q.txt` away: zipfile ends a name at its first NUL."""
    data[:] = data.replace(b"Q.txt", b"\0.txt")


def halve(data: bytearray) -> None:
    del data[len(data) // 2 :]


def zip_in_zip() -> bytes:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        for name, content in sound_documents().items():
            archive.writestr(name, content)
    return inner.getvalue()


def symlink(folder: Path) -> Path:
    """A member that is a link to a file outside, as `zip --symlinks` writes it."""
    path = with_member("readme.txt", "")(folder)
    with zipfile.ZipFile(path, "a") as archive:
        member = zipfile.ZipInfo("1_A/1.xml")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/hostname")
    return path


def same_member_twice(folder: Path) -> Path:
    path = zipped(sound_documents(), name="corpus.zip")(folder)
    data = path.read_bytes().replace(b"2_B/1.xml", b"2_B/0.xml")
    path.write_bytes(data)
    return path


def unpacked(members: Mapping[str, str | bytes]) -> Build:
    """A folder of exactly these files."""

    def build(folder: Path) -> Path:
        for name, content in members.items():
            path = folder / "corpus" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        (folder / "corpus").mkdir(exist_ok=True)
        return folder / "corpus"

    return build


def large_file(folder: Path) -> Path:
    """A folder with a sparse document, one byte larger than is read."""
    path = unpacked(sound_documents())(folder)
    with (path / "2_B" / "9.xml").open("wb") as file:
        file.truncate(64 * 2**20 + 1)
    return path


def plain(content: str | bytes, name: str = "corpus.csv") -> Build:
    """A file of exactly this content."""

    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return folder / name

    return build


def csv(*odd: str | bytes, header: str = "question,answer", extra: str = "", name: str = "corpus.csv") -> Build:
    """Odd records from line 2 on, then the sound ones, each ending in `extra`, `{n}` replaced by its number."""
    sound = [f"{row['question']},{row['answer']}{extra.format(n=n)}" for n, row in enumerate(SOUND)]
    lines = [line.encode() if isinstance(line, str) else line for line in (header, *odd, *sound)]
    return plain(b"\n".join(lines) + b"\n", name)


def jsonl(*odd: str, name: str = "corpus.jsonl") -> Build:
    """Odd lines first, then the sound ones."""
    return plain("\n".join([*odd, *(json.dumps(row) for row in SOUND)]) + "\n", name)


def rows(found: Sequence[Mapping[str, Any]]) -> Build:
    """A JSONL file of exactly these rows."""
    return plain("".join(json.dumps(row) + "\n" for row in found), "corpus.jsonl")


def parquet(columns: Mapping[str, Any] | None = None, **more: Any) -> Build:
    """The sound pairs as a Parquet file, with columns replaced or added."""

    def build(folder: Path) -> Path:
        sound = {name: [row[name] for row in SOUND] for name in ("question", "answer")}
        pq.write_table(pa.table({**(sound if columns is None else columns), **more}), folder / "corpus.parquet")
        return folder / "corpus.parquet"

    return build


def parquet_not_utf8(folder: Path) -> Path:
    """A column that calls itself text and holds the byte 0xff."""
    path = parquet()(folder)
    path.write_bytes(path.read_bytes().replace(b"State 0 is", b"State \xff is"))
    return path
