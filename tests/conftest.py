"""Fixtures that several test files share."""

from pathlib import Path

import pytest
import torch

from vademecum.testing import build_tiny_checkpoint, build_tinyllama_lookalike

torch.set_num_threads(1)  # tiny tensors: a second thread would only be waited for


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny ChatML Llama. Read only: every test of the session shares it."""
    return build_tiny_checkpoint(tmp_path_factory.mktemp("tiny-checkpoint"))


@pytest.fixture(scope="session")
def tinyllama_lookalike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny checkpoint that looks like TinyLlama-Chat. Read only, shared by the session."""
    return build_tinyllama_lookalike(tmp_path_factory.mktemp("tinyllama-lookalike"))
