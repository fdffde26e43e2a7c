"""Answers: prompts in, predictions out, chunk by chunk."""

from vademecum.generation.answers import (
    GenerationTiming,
    PredictionSink,
    Prompt,
    chunks,
    generate,
    probe_generation,
)
from vademecum.generation.decoding import Decoding
from vademecum.generation.repetition import is_looping

__all__ = [
    "Decoding",
    "GenerationTiming",
    "PredictionSink",
    "Prompt",
    "chunks",
    "generate",
    "is_looping",
    "probe_generation",
]
