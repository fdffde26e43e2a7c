"""What the page about reliability says was measured stands in a file of results."""

import json
import re
from pathlib import Path

from benchmarks.faults_record import figures
from benchmarks.mutations import MUTATIONS, ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("faults-*.json"))


def test_the_page_gives_the_figures_of_a_file() -> None:
    shown = {name: int(count) for name, count in re.findall(r"^\| `([a-z_.]+)` \| (\d+) \|$", PAGE, re.MULTILINE)}
    files = [json.loads(file.read_text(encoding="utf-8")) for file in RESULTS]
    assert shown in [found["figures"] for found in files]
    assert all(found["figures"] == figures(found["parts"]) for found in files)


def test_the_page_lists_every_mutation() -> None:
    for mutation in MUTATIONS:
        assert f"| {mutation.name} | `{mutation.file}` |" in PAGE


def test_every_mutation_would_find_its_text() -> None:
    for mutation in MUTATIONS:
        source = (ROOT / "src" / "vademecum" / mutation.file).read_text(encoding="utf-8")
        assert source.count(mutation.text) == 1, mutation.name
        assert mutation.broken not in source
        assert Path(ROOT / mutation.tests.partition("::")[0]).is_file()
