"""The versions that did a stage's work."""

import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = (
    "vademecum", "torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "tokenizers",
    "rouge-score", "bm25s", "scipy", "numpy",
)  # fmt: skip


def library_versions() -> dict[str, str]:
    """Installed versions of Python and of every library that can change a result."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
