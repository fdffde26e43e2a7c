"""Answers: prompts in, predictions out, chunk by chunk."""

from vademecum.generation.answers import (
    GenerationTiming,
    KeptAnswers,
    PredictionSink,
    Prompt,
    chunks,
    generate,
    probe_generation,
)
from vademecum.generation.decoding import REFILLED_BATCHES, Decoding
from vademecum.generation.repetition import is_looping

__all__ = [
    "REFILLED_BATCHES",
    "Decoding",
    "GenerationTiming",
    "KeptAnswers",
    "PredictionSink",
    "Prompt",
    "chunks",
    "generate",
    "is_looping",
    "probe_generation",
]
