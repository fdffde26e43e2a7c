"""Whatever stands in a file or behind --set: a configuration that can be written and read again, or a ConfigError."""

import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vademecum.config import RunConfig, load_config
from vademecum.config.loading import PRESETS
from vademecum.errors import ConfigError
from vademecum.files import write_json

PRESET = (PRESETS / "demo.toml").read_bytes()
NAMES = [f"{section}.{key}" for section, tree in RunConfig().model_dump().items() if section != "seed" for key in tree]
PIECES = [
    b"[", b"]", b"[[", b"]]", b"=", b'"', b'"""', b"'", b"\n", b"#", b".", b"{", b"}", b",", b"\0", b"\xff", b"\\u0000",
    b"\\ud800", b"nan", b"inf", b"-0", b"1e999", b"9" * 5_000, b"1979-05-27", b"true", b"[" * 3_000, b"a." * 3_000,
    b"[train]\n", b"seed = ", b"source = ", b"\xef\xbb\xbf",
]  # fmt: skip
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8)
    | st.sampled_from(["auto", "none", "{question}", "9" * 5_000, "/", "~nobody/x", "a" * 5_000, "\0"])
)  # fmt: skip
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
names = st.sampled_from(["seed", *NAMES]) | st.text(max_size=8)
written = (
    values.map(repr) | st.text(max_size=20) | st.sampled_from([piece.decode("utf-8", "replace") for piece in PIECES])
)
overrides = st.lists(st.tuples(names, st.sampled_from(["=", "", " = "]), written).map("".join), min_size=1, max_size=3)
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9), st.sampled_from(PIECES)), min_size=1, max_size=4)
trees = st.dictionaries(names, values, min_size=1, max_size=3)

BOUNDED = pytest.mark.parametrize("examples", [40, pytest.param(3_000, marks=pytest.mark.slow)])


def check(load: Callable[[], RunConfig], folder: Path) -> None:
    try:
        config = load()
    except ConfigError as error:
        assert error.message and error.hint
        return
    write_json(folder / "resolved.json", config.model_dump(mode="json"))
    again = load_config(folder / "resolved.json")
    for section, key in (("corpus", "source"), ("model", "name")):  # may name something beside either file
        value = getattr(getattr(config, section), key)
        again = again.model_copy(update={section: getattr(again, section).model_copy(update={key: value})})
    assert again == config


@BOUNDED
def test_overrides(examples: int, tmp_path: Path) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(found=overrides)
    def run(found: Sequence[str]) -> None:
        check(lambda: load_config("demo", found), tmp_path)

    run()


@BOUNDED
def test_a_damaged_file(examples: int, tmp_path: Path) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(found=edits)
    def run(found: Sequence[tuple[float, int, bytes]]) -> None:
        data = PRESET
        for share, gone, piece in found:
            at = int(share * len(data))
            data = data[:at] + piece + data[at + gone :]
        (tmp_path / "damaged.toml").write_bytes(data)
        check(lambda: load_config(tmp_path / "damaged.toml"), tmp_path)

    run()


@BOUNDED
def test_an_invented_tree(examples: int, tmp_path: Path) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(found=trees)
    def run(found: dict[str, Any]) -> None:
        tree = tomllib.loads(PRESET.decode())
        for name, value in found.items():
            section, dot, key = name.partition(".")
            if dot and isinstance(tree.setdefault(section, {}), dict):
                tree[section][key] = value
            else:
                tree[section] = value
        (tmp_path / "invented.json").write_text(json.dumps(tree), encoding="utf-8")
        check(lambda: load_config(tmp_path / "invented.json"), tmp_path)

    run()
