"""From a preset or a TOML file, and overrides, to one validated `RunConfig`."""

import difflib
import json
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from vademecum.config.sections import RunConfig
from vademecum.errors import ConfigError, masked
from vademecum.files import expanded

SHORT_NAMES = ("sample", "medquad", "smollm2-135m")
"""Of a corpus and a base model, which no folder of that name stands in for."""
PRESETS = files("vademecum") / "presets"


def preset_names() -> list[str]:
    """The names of the presets that ship with the package."""
    return sorted(entry.name.removesuffix(".toml") for entry in PRESETS.iterdir() if entry.name.endswith(".toml"))


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a preset or a TOML (or resolved JSON) file; apply `section.key=value` overrides; validate once.

    A relative `corpus.source` or `model.name` in a file that exists beside that file is taken from there, so that
    a configuration works from any working directory.

    Raises:
        ConfigError: the file is missing or malformed, or any key or value is wrong (all mistakes are listed at once),
            or a value holds a password or a token.
    """
    tree = _read(name)
    for override in overrides:
        apply_override(tree, override)
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, str(name)), hint=_suggest(error)) from None
    secret = [place for place, text in _texts(config.model_dump(), "") if masked(text) != text]
    if secret:
        raise ConfigError(
            f"{name}: {' and '.join(secret)} holds a password or a token, which would stand in the run's files",
            hint="log in with `hf auth login`, or download the file and give its path",
        )
    return config


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401  any part of the tree
    """Every text of a configuration, with its dotted name."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, f"{place}.{key}".removeprefix("."))
    elif isinstance(value, tuple):
        for inner in value:
            yield from _texts(inner, place)


def _read(name: str | Path) -> dict[str, Any]:
    path = Path(name)
    if str(name) in preset_names() and not path.is_file():
        return read_tree(PRESETS / f"{name}.toml", str(name))
    if not path.exists():
        raise ConfigError(
            f"no preset and no file is called {str(name)!r}",
            hint=f"presets are {', '.join(preset_names())}; or give the path of a TOML file",
        )
    tree = read_tree(path, str(name))
    _anchor_paths(tree, path.parent)
    return tree


def read_tree(path: Traversable, name: str) -> dict[str, Any]:
    """The settings in a TOML or JSON file, not validated.

    Raises:
        ConfigError: it cannot be read, or is malformed.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        tree = json.loads(text) if name.endswith(".json") else tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} cannot be read: {error}", hint="give a readable UTF-8 TOML file") from None
    except (ValueError, RecursionError) as error:  # not TOML or JSON, an endless number, a thousand brackets
        raise ConfigError(f"{name} is malformed: {error}", hint="see docs/configuration.md for the form") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{name} holds a {type(tree).__name__}, not settings", hint="see docs/configuration.md")
    return tree


def _anchor_paths(tree: dict[str, Any], folder: Path) -> None:
    for section, key in (("corpus", "source"), ("model", "name")):
        values = tree.get(section)
        if not isinstance(values, dict):
            continue
        value = values.get(key)
        if not isinstance(value, str) or not value or value in SHORT_NAMES:
            continue
        with suppress(OSError):  # a text that cannot be a path's name at all
            path = folder / expanded(value)
            if path.exists() and not Path(value).is_absolute():
                values[key] = str(path.resolve())


def anchored(config: RunConfig) -> RunConfig:
    """The configuration with the corpus and the base model by absolute paths, for work that goes on elsewhere."""
    tree = config.model_dump()
    _anchor_paths(tree, Path())
    return RunConfig.model_validate(tree)


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Put `section.key=value` into a tree of settings; `none` for the value unsets.

    Raises:
        ConfigError: it has no such form.
    """
    dotted, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override!r} has no '='", hint="write --set section.key=value")
    keys = dotted.strip().split(".")
    node = tree
    for key in keys[:-1]:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override!r}: {key!r} is a value, not a section", hint="write section.key=value")
        node = child
    node[keys[-1]] = _parse_value(text.strip())


def _parse_value(text: str) -> Any:  # noqa: ANN401  any TOML value
    """A TOML value; text that is none, such as a bare word or a path, stands for itself. `none` unsets."""
    if text == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _explain(error: ValidationError, name: str) -> str:
    lines = [f"{name} has {error.error_count()} wrong setting{'s' if error.error_count() > 1 else ''}:"]
    for item in error.errors(include_url=False):
        place = ".".join(str(part) for part in item["loc"]) or "(top)"
        if item["type"] == "extra_forbidden":
            lines.append(f"  {place}: there is no such setting{_nearest(item['loc'])}")
        else:
            lines.append(f"  {place}: {item['msg'].removeprefix('Value error, ')}; found {item['input']!r}")
    return "\n".join(lines)


def _suggest(error: ValidationError) -> str:
    if any(item["type"] == "extra_forbidden" for item in error.errors(include_url=False)):
        return "docs/configuration.md lists every setting"
    return "correct the values above; docs/configuration.md says what each setting takes"


def _nearest(place: Sequence[str | int]) -> str:
    model: type[BaseModel] = RunConfig
    for key in place[:-1]:
        inner = model.model_fields[str(key)].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return ""
        model = inner
    wanted = str(place[-1])
    everywhere = _all_names(RunConfig)
    near = difflib.get_close_matches(wanted, model.model_fields, n=1) or difflib.get_close_matches(
        wanted, [name.rpartition(".")[2] for name in everywhere], n=1
    )
    if not near:
        return ""
    dotted = [name for name in everywhere if name.rpartition(".")[2] == near[0]]
    return f"; did you mean {' or '.join(dotted) if dotted else near[0]}?"


def _all_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    names: list[str] = []
    for key, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += _all_names(inner, f"{prefix}{key}.")
        else:
            names.append(f"{prefix}{key}")
    return names
