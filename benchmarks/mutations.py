"""Would the tests notice if a safeguard were broken? Breaks each on purpose, in a copy of the sources, and looks.

    python -m benchmarks.mutations [--only NAME] [--out FILE]

Writes its part of benchmarks/results/faults-MACHINE.json. The exit code is 1 when a mutation was not caught.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults_record import record

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Mutation:
    """A safeguard, the text that is its heart, what stands there once it is broken, and the tests that should fail."""

    name: str
    file: str
    text: str
    broken: str
    tests: str


MUTATIONS = [
    Mutation(
        "files are renamed into place",
        "files.py",
        "        temporary.chmod(0o644)\n        temporary.replace(path)\n",
        "        path.write_bytes(data)\n",
        "tests/test_files.py",
    ),
    Mutation(
        "files are synced before they are renamed",
        "files.py",
        "            file.flush()\n            os.fsync(file.fileno())\n        temporary.chmod",
        "            file.flush()\n        temporary.chmod",
        "tests/test_files.py",
    ),
    Mutation(
        "the end token is trained",
        "training/supervision.py",
        "[IGNORED] * len(given) + trained)",
        "[IGNORED] * len(given) + [*trained[:-1], IGNORED])",
        "tests/training/test_supervision.py",
    ),
    Mutation(
        "the prompt is not trained",
        "training/supervision.py",
        "[IGNORED] * len(given) + trained)",
        "[*given, *trained])",
        "tests/training/test_supervision.py",
    ),
    Mutation(
        "no group crosses the splits",
        "corpus/splitting.py",
        "    if grouped and config.exclude_shared_answers:\n",
        "    leak = next((of for name, of in units.items() if splits[name] == 'test' and len(of) > 1), [])\n"
        "    placed |= {pair.id: 'train' for pair in leak[:1]}\n"
        "    if grouped and config.exclude_shared_answers:\n",
        "tests/corpus/test_splitting.py",
    ),
    Mutation(
        "merging adds the adapter",
        "models/adapters.py",
        "return model.merge_and_unload(safe_merge=True)",
        "return model.unload()",
        "tests/models/test_adapters.py",
    ),
    Mutation(
        "the adapter answers",
        "stages/answer.py",
        "return merge(adapted)",
        "return adapted.unload()",
        "tests/test_pipeline.py::test_the_tuned_answers_are_the_adapters",
    ),
    Mutation(
        "the prompt is not in the answer",
        "generation/answers.py",
        "text=decode_answer(tokenizer, answer.ids)",
        "text=decode_answer(tokenizer, [*prompt.input_ids, *answer.ids])",
        "tests/generation/test_answers.py",
    ),
]


def run_tests(tests: str, sources: Path) -> tuple[int, list[str]]:
    """Run tests against a copy of the sources; pytest's exit code, and the tests that failed."""
    path = os.pathsep.join([str(sources), *filter(None, [os.environ.get("PYTHONPATH")])])
    surroundings = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    where = [sys.executable, "-c", "import vademecum; print(vademecum.__file__)"]
    used = subprocess.run(where, env=surroundings, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    if not used.startswith(str(sources)):
        raise SystemExit(f"the tests would take the package from {used.strip()}, not from {sources}")
    command = [sys.executable, "-m", "pytest", tests, "-p", "no:cacheprovider", "-rf", "--tb=no"]
    done = subprocess.run(command, env=surroundings, cwd=ROOT, capture_output=True, text=True, check=False)
    failed = [line.split()[1].rpartition("::")[2] for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    return done.returncode, failed


def try_mutation(mutation: Mutation, sources: Path) -> list[str]:
    """Break one safeguard in the copy and return the tests that failed; the copy is mended again."""
    file = sources / "vademecum" / mutation.file
    whole = file.read_text(encoding="utf-8")
    if whole.count(mutation.text) != 1:
        raise SystemExit(f"{mutation.file} does not hold the text of {mutation.name!r} just once: adapt the mutation")
    file.write_text(whole.replace(mutation.text, mutation.broken), encoding="utf-8")
    try:
        code, failed = run_tests(mutation.tests, sources)
    finally:
        file.write_text(whole, encoding="utf-8")
    if code not in (0, 1):  # 1: tests failed; anything else is no answer
        raise SystemExit(f"{mutation.tests} could not be run with {mutation.name!r} broken: pytest ended with {code}")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[mutation.name for mutation in MUTATIONS])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if given.only in (None, mutation.name)]
    with tempfile.TemporaryDirectory() as name:
        sources = Path(name).resolve()
        shutil.copytree(ROOT / "src" / "vademecum", sources / "vademecum", ignore=shutil.ignore_patterns("__pycache__"))
        for tests in dict.fromkeys(mutation.tests for mutation in chosen):
            code, failed = run_tests(tests, sources)
            if code:
                raise SystemExit(f"{tests} fails before anything is broken: {failed}")
        rows = [(mutation, try_mutation(mutation, sources)) for mutation in chosen]
    caught = sum(bool(failed) for _, failed in rows)
    found = {
        "figures": {"safeguards.broken": len(rows), "safeguards.caught": caught},
        "safeguards": [{"name": one.name, "file": one.file, "caught_by": failed} for one, failed in rows],
    }
    print(json.dumps(found, indent=2))
    if given.only is None:
        print(f"\nwritten to {record('safeguards', found, given.out)}")
    sys.exit(caught < len(rows))


if __name__ == "__main__":
    main()
