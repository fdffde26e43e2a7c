"""Fixtures that several test files share."""

from pathlib import Path

import pytest

from vademecum.testing import build_tiny_checkpoint, build_tinyllama_lookalike


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny ChatML Llama. Read only: every test of the session shares it."""
    return build_tiny_checkpoint(tmp_path_factory.mktemp("tiny-checkpoint"))


@pytest.fixture(scope="session")
def tinyllama_lookalike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny checkpoint that looks like TinyLlama-Chat. Read only, shared by the session."""
    return build_tinyllama_lookalike(tmp_path_factory.mktemp("tinyllama-lookalike"))
