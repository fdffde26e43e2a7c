"""Every input of the table in `bad_inputs.py` ends as it is written there, and the page about it says how many."""

import re
from pathlib import Path

import pytest
from tests.corpus.bad_inputs import TABLE, Input, Read, Refused

from vademecum.config import CorpusConfig, SplitConfig
from vademecum.corpus import audit_leakage, clean, load_corpus, split
from vademecum.errors import InputError
from vademecum.records import QAPair

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


@pytest.mark.parametrize("one", TABLE, ids=[one.name for one in TABLE])
def test_ends_as_specified(one: Input, tmp_path: Path) -> None:
    path = one.build(tmp_path)
    if isinstance(one.must, Refused):
        check_refused(one, one.must, path)
    else:
        check_read(one, one.must, path)


def check_read(one: Input, must: Read, path: Path) -> None:
    said: list[str] = []
    found, kept, rules = prepare(one, path, said)
    assert len(found) == must.pairs
    assert {name: count for name, count in rules.items() if count and name != "collapse_whitespace"} == must.counted
    assert any(must.holds in pair.question or must.holds in pair.answer for pair in kept)
    assert any(must.said in line for line in said) if must.said else said == []
    for pair in kept:
        assert QAPair.model_validate_json(pair.model_dump_json().encode()) == pair


def check_refused(one: Input, must: Refused, path: Path) -> None:
    with pytest.raises(InputError) as caught:
        prepare(one, path, [])
    assert type(caught.value) is must.error
    for part in must.found:
        assert part in caught.value.message
    assert str(path) in caught.value.message or not must.names_path
    assert caught.value.hint
    assert caught.value.message.isprintable()


def prepare(one: Input, path: Path, said: list[str]) -> tuple[list[QAPair], list[QAPair], dict[str, int]]:
    """What the stage `prepare` does with a corpus."""
    config, shares = CorpusConfig.model_validate(one.corpus), SplitConfig.model_validate(one.split)
    found = load_corpus(path, config, said.append)
    kept, rules = clean(found, config)
    audit_leakage(kept, split(kept, shares, seed=0))
    return found, kept, rules


def test_the_table_is_large_and_each_input_has_its_own_name() -> None:
    assert len({one.name for one in TABLE}) == len(TABLE) >= 60


def test_the_page_gives_the_table_s_numbers() -> None:
    n_read = sum(isinstance(one.must, Read) for one in TABLE)
    found = re.search(r"(\d+) inputs tried, (\d+) as specified: (\d+) read, (\d+) refused", PAGE.read_text("utf-8"))
    assert found is not None
    assert [int(number) for number in found.groups()] == [len(TABLE), len(TABLE), n_read, len(TABLE) - n_read]
