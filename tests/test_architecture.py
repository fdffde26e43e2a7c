"""The house stays as it was drawn: layers, sizes, names, docstrings, and a start-up without the heavy libraries."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from statistics import median, quantiles

import grimp
import pytest

import vademecum

Function = ast.FunctionDef | ast.AsyncFunctionDef

PACKAGE = Path(vademecum.__path__[0])
ROOT = Path(__file__).parent.parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
TREES = {file.relative_to(PACKAGE).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in SOURCES}
HEAVY = {
    "torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "tokenizers", "safetensors",
    "gguf", "pyarrow", "ray",
}  # fmt: skip
HEAVY_ALLOWED_IN = (
    "models/",
    "training/",
    "generation/",
    "planning/",
    "study/executors/",
    "hardware.py",
    "rates.py",
    "cuda.py",
    "testing.py",
)
PARQUET_READER = "corpus/tables.py"


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def lines_of(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def parameters_of(function: Function) -> int:
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    bound = bool(named) and named[0].arg in ("self", "cls")
    return len(named) - bound + (given.vararg is not None) + (given.kwarg is not None)


def where(name: str, node: ast.stmt | ast.expr | ast.ExceptHandler) -> str:
    return f"{name}:{node.lineno}"


def test_files_are_short() -> None:
    lines = {name: len((PACKAGE / name).read_text(encoding="utf-8").splitlines()) for name in TREES}
    assert {name: count for name, count in lines.items() if count > 400} == {}
    assert median(lines.values()) <= 150


def test_functions_are_short_and_take_few_parameters() -> None:
    found = [(name, function) for name, tree in TREES.items() for function in functions(tree)]
    assert [f"{where(name, one)} {one.name}" for name, one in found if lines_of(one) > 60] == []
    assert [f"{where(name, one)} {one.name}" for name, one in found if parameters_of(one) > 6] == []
    assert quantiles([lines_of(one) for _, one in found], n=10)[-1] <= 35


def test_no_module_is_a_drawer_for_everything() -> None:
    names = {part for name in TREES for part in Path(name).with_suffix("").parts}
    assert names.isdisjoint({"utils", "util", "helpers", "common", "core", "base", "misc"})


def test_only_the_command_line_prints_and_exits() -> None:
    found = [
        f"{where(name, node)} {ast.unparse(node.func)}"
        for name, tree in TREES.items()
        if not name.startswith("cli/")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.exit", "exit", "quit", "os._exit")
    ]
    assert found == []


def test_no_error_is_swallowed_by_a_broad_except() -> None:
    def passes_on(handler: ast.ExceptHandler) -> bool:
        last = handler.body[-1]
        return isinstance(last, ast.Raise) and last.exc is None

    def is_broad(handler: ast.ExceptHandler) -> bool:
        names = {ast.unparse(node) for node in ast.walk(handler.type)} if handler.type else {"BaseException"}
        return not names.isdisjoint({"Exception", "BaseException"})

    handlers = [
        (name, node) for name, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)
    ]
    assert [where(name, node) for name, node in handlers if is_broad(node) and not passes_on(node)] == []


def test_everything_public_has_a_docstring() -> None:
    def missing(name: str, body: list[ast.stmt]) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
                if ast.get_docstring(node) is None:
                    yield f"{where(name, node)} {node.name}"
                if isinstance(node, ast.ClassDef):
                    yield from missing(name, node.body)

    assert [name for name, tree in TREES.items() if ast.get_docstring(tree) is None] == []
    assert [found for name, tree in TREES.items() for found in missing(name, tree.body)] == []


def test_modules_import_only_from_rows_below_their_own() -> None:
    check = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_import_cycle() -> None:
    graph = grimp.build_graph("vademecum", cache_dir=None)
    modules = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert len(list(TopologicalSorter(modules).static_order())) == len(modules) >= len(TREES) - 1


def heavy_imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Library and line of every heavy import that really happens, those for type checkers left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            libraries = {name.partition(".")[0] for name in names}
            yield from ((library, node.lineno) for library in libraries & HEAVY)
        yield from heavy_imports(node)


def test_heavy_libraries_are_used_where_they_belong() -> None:
    elsewhere = [
        f"{name}:{line} {library}"
        for name, tree in TREES.items()
        if not name.startswith(HEAVY_ALLOWED_IN)
        for library, line in heavy_imports(tree)
        if (name, library) != (PARQUET_READER, "pyarrow")
    ]
    assert elsewhere == []


LOADED = f"import sys; print(*sorted({HEAVY!r} & {{name.partition('.')[0] for name in sys.modules}}))"
HELP = "import sys, vademecum.cli as cli\nsys.argv = ['vade', '--help']\ntry: cli.main()\nexcept SystemExit: pass"
EVERYTHING = (
    "import importlib, pkgutil, vademecum\n"
    "for found in pkgutil.walk_packages(vademecum.__path__, 'vademecum.'):\n"
    "    if not found.name.endswith('__main__'): importlib.import_module(found.name)"
)


@pytest.mark.parametrize("program", ["import vademecum", HELP, EVERYTHING], ids=["import", "help", "all modules"])
def test_heavy_libraries_are_loaded_by_functions_only(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"{program}\n{LOADED}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
