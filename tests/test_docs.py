"""What the documentation shows is true: generated pages, links, commands, settings, snippets and rows."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from pydantic import ValidationError

from vademecum.baselines import copy_answers
from vademecum.cli.commands import app
from vademecum.config import RunConfig, load_config, preset_names
from vademecum.corpus import audit_leakage, clean, load_corpus, missing_fields, sample_path, split
from vademecum.evaluation import score
from vademecum.records import Assignment, Comparison, Prediction, QAPair, Record, Score, Split
from vademecum.stages import stages_of
from vademecum.study import SearchConfig, StudyConfig, load_search, load_study, study_names
from vademecum.study.design import lay_out_design

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/*.md")])
SIDES: tuple[Split, ...] = ("train", "validation", "test", "excluded")
ROWS: tuple[type[Record], ...] = (QAPair, Assignment, Prediction, Score, Comparison)

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[a-z]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


class Shown(NamedTuple):
    """A piece of a page, and where it stands."""

    place: str
    text: str


def fenced(*languages: str) -> Iterator[Shown]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for fence in _FENCE.finditer(text):
            if fence["language"] in languages:
                line = text[: fence.start()].count("\n") + 1
                yield Shown(f"{page.relative_to(ROOT)}:{line}", fence["text"])


def shell_lines() -> list[Shown]:
    """What a reader would type: every line of a bash block, and those after a `$` in a console block."""
    found = []
    for language in ("bash", "console"):
        for block in fenced(language):
            for line in block.text.replace("\\\n", " ").splitlines():
                typed = line.strip()
                if language == "console":
                    typed = typed.removeprefix("$").strip() if typed.startswith(("$ ", "vade ")) else ""
                if typed:
                    found.append(Shown(block.place, typed))
    return found


def vade_lines() -> list[Shown]:
    lines = [Shown(line.place, re.sub(r"^(\w+=\S* +)+", "", line.text)) for line in shell_lines()]
    return [line for line in lines if line.text.split()[0].rpartition("/")[2] == "vade"]


def named(shown: list[Shown]) -> Any:
    return pytest.mark.parametrize("shown", shown, ids=[f"{one.place} {one.text[:60]}" for one in shown])


def parse(words: list[str]) -> dict[str, Any]:
    """The command's name and arguments, parsed by the app's own parser, without running it."""
    group: Any = typer.main.get_command(app)
    flags = {option for parameter in group.params for option in parameter.opts}
    while words and words[0].startswith("-"):
        assert words[0] in flags, f"vade has no option {words[0]}"
        words = words[1:]
    assert words, "no command"
    assert words[0] in group.commands, f"vade has no command {words[0]}"
    return {"command": words[0], **group.commands[words[0]].make_context(words[0], words[1:]).params}


def test_generated_pages_are_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    specification = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert specification is not None
    assert specification.loader is not None
    build = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(build)
    for page, text in build.pages().items():
        assert page.read_text(encoding="utf-8") == text, f"{page.name} is out of date: run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_relative_links_resolve(page: Path) -> None:
    for link in _LINK.finditer(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link["target"]):
            continue
        name, _, heading = link["target"].partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link['target']!r} leads nowhere"
        assert target.is_relative_to(ROOT), f"{link['target']!r} leads out of the repository"
        if heading:
            assert heading in anchors(target), f"{name or page.name} has no heading {heading!r}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ +(.+)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_docs_show_commands_at_all() -> None:
    commands = {shlex.split(line.text, comments=True)[1] for line in vade_lines()}
    assert commands >= {"run", "plan", "audit", "init", "doctor", "report", "compare", "study", "trial", "search"}


@named(vade_lines())
def test_shown_command_would_run(shown: Shown) -> None:
    words = shlex.split(shown.text, comments=True)[1:]
    if "--help" in words:
        words.remove("--help")
        group: Any = typer.main.get_command(app)
        assert not words or words[0] in group.commands
        return
    given = parse(words)
    if "target" not in given:
        return
    target, settings = given["target"], given["settings"] or []
    is_path = Path(target).suffix == ".toml" or "/" in target
    if words[0] == "study" or target in study_names():
        assert is_path or lay_out_design(load_study(target, settings)).trials()
        return
    if words[0] == "search":
        assert is_path or load_search(target, settings).trials
        return
    assert target in preset_names() or is_path, f"{target!r} is neither a preset nor a file"
    config = load_config(target if target in preset_names() else "demo", settings)
    names = {part for stage in stages_of(config) for part in (stage.name, stage.name.partition("/")[0])}
    for stage in [given.get("until"), *(given.get("force") or [])]:
        assert stage is None or stage in names, f"there is no stage {stage!r}"


@named([line for line in vade_lines() if line.text.endswith("--help")])
def test_shown_help_is_printed(shown: Shown) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vademecum", *shlex.split(shown.text)[1:]],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.lstrip().startswith("Usage: ")


def test_shown_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in shell_lines():
        words = shlex.split(line.text, comments=True)
        if words and words[0] == "make":
            named = {word for word in words[1:] if "=" not in word}
            assert named <= targets, f"{line.place}: {line.text}"


def test_shown_python_compiles() -> None:
    for shown in fenced("python"):
        compile(shown.text, shown.place, "exec")


@named(list(fenced("toml")))
def test_shown_configuration_is_valid(shown: Shown) -> None:
    tree = tomllib.loads(shown.text)
    if "over" in tree:
        SearchConfig.model_validate({"baseline": "cpu", **tree})
    elif "baseline" in tree:
        lay_out_design(StudyConfig.model_validate(tree))
    else:
        RunConfig.model_validate(tree)


@named([*fenced("json"), *(Shown(block.place, line) for block in fenced("jsonl") for line in block.text.splitlines())])
def test_shown_row_is_one_that_is_written(shown: Shown, sample_run: list[dict[str, Any]]) -> None:
    row = json.loads(shown.text)
    if str(row.get("id", "")).startswith("sample/") or row.get("source") == "sample" or "leakage" in row:
        assert row in sample_run
    elif {"id", "verdict"} & row.keys():
        assert any(is_row(kind, row) for kind in ROWS), "no artifact has such a row"


@pytest.fixture(scope="module")
def sample_run() -> list[dict[str, Any]]:
    """What the stages of `vade run demo` that need no model write."""
    config = load_config("demo")
    found = load_corpus(sample_path(), config.corpus)
    pairs, rules = clean(found, config.corpus)
    assignments = split(pairs, config.split, config.seed)
    groups = {row.id: row.group for row in assignments}
    sides = {side: [pair for pair, row in zip(pairs, assignments, strict=True) if row.split == side] for side in SIDES}
    copies = copy_answers(sides["train"], sides["test"])
    scores = score(copies, {pair.id: pair for pair in pairs}, groups, config.evaluate)
    cleaning = {"source": "sample", "pairs_in": len(found), "pairs_kept": len(pairs), "rules": rules}
    leakage = {"counts": {side: len(sides[side]) for side in SIDES}, "groups": len(set(groups.values()))}
    return [
        cleaning | {"missing_fields": missing_fields(pairs)},
        leakage | {"strategy": "grouped", "leakage": audit_leakage(pairs, assignments).model_dump()},
        *(row.model_dump(mode="json") for row in (*pairs, *assignments, *copies, *scores)),
    ]


def is_row(kind: type[Record], row: dict[str, Any]) -> bool:
    try:
        kind.model_validate(row)
    except ValidationError:
        return False
    return True


def test_every_setting_that_a_page_names_exists() -> None:
    sections = {
        name: field.annotation for name, field in RunConfig.model_fields.items() if isinstance(field.annotation, type)
    }
    known = {f"{name}.{key}" for name, kind in sections.items() for key in getattr(kind, "model_fields", {})}
    prefixes = "|".join(name for name in sections if name != "seed")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in re.findall(rf"`(?:--set )?((?:{prefixes})\.\w+)", text):
            is_file = found.rpartition(".")[2] in ("json", "jsonl", "md", "toml", "html", "py")
            assert is_file or found in known, f"{page.relative_to(ROOT)} names {found!r}"
