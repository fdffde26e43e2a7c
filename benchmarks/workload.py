"""What the benchmarks work on: a model, rows of MedQuAD's lengths, and the operations that a step really needs.

    python -m benchmarks.workload      # writes lengths.json anew, from MedQuAD with SmolLM2's tokenizer

A model is a checkpoint, or a published shape with random weights. Random models get random token ids in rows of
`lengths.json`: 2,000 pairs [prompt, answer] of token counts, drawn from the cleaned MedQuAD, without any text.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from vademecum.config.sections import CorpusConfig, ModelConfig, PromptConfig, TrainConfig
from vademecum.corpus import clean, load_corpus, sample_path
from vademecum.files import write_whole
from vademecum.models import load_base, load_tokenizer, locate_base
from vademecum.models.attention import register_attention
from vademecum.prompts import build_messages, encode_answer, encode_prompt
from vademecum.records import QAPair
from vademecum.training import Example, build_examples

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LENGTHS = Path(__file__).parent / "lengths.json"
ROWS = 2_000
FIRST_WORD = 10
"""Random ids begin here: special tokens come first in every vocabulary."""

SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49_152,
        "tie_word_embeddings": True,
    },
    "tinyllama": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32_000,
        "tie_word_embeddings": False,
    },
}
"""SmolLM2-135M and TinyLlama-1.1B, from their published configurations."""


@dataclass(frozen=True)
class Subject:
    """The model that is measured."""

    name: str
    folder: Path | None
    """Its checkpoint; none: the shape of that name, with random weights."""

    def load(self, dtype: str, device: str) -> "PreTrainedModel":
        """A fresh model."""
        if self.folder is not None:
            return load_base(self.folder, ModelConfig(), dtype=dtype, device=device)
        import torch
        from transformers import AutoModelForCausalLM, LlamaConfig

        register_attention()
        torch.manual_seed(0)
        config = LlamaConfig(**SHAPES[self.name], max_position_embeddings=4096, pad_token_id=0)
        with torch.device(device):
            return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation="sdpa")

    @property
    def vocabulary(self) -> int:
        """Tokens that the output layer scores."""
        if self.folder is None:
            return int(SHAPES[self.name]["vocab_size"])
        return int(json.loads((self.folder / "config.json").read_text(encoding="utf-8"))["vocab_size"])

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The checkpoint's; for a random model one whose words are the numbers of its vocabulary."""
        return _tokenizer(self)


def find_subject(model: str, *, random: bool) -> Subject:
    """`smollm2`, `tinyllama` (always random) or the folder of a checkpoint."""
    if model == "tinyllama":
        return Subject("tinyllama", None)
    if model == "smollm2":
        return Subject("smollm2-135m", None if random else locate_base(ModelConfig(), offline=False).path)
    return Subject(Path(model).name, Path(model))


@lru_cache
def _tokenizer(subject: Subject) -> "PreTrainedTokenizerBase":
    if subject.folder is not None:
        return load_tokenizer(subject.folder)
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {f"t{number}": number for number in range(SHAPES[subject.name]["vocab_size"])}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="t0")), pad_token="t0", eos_token="t2"
    )


@dataclass(frozen=True)
class Workload:
    """Pairs to train on or to answer: with text, or as mere lengths."""

    name: str
    pairs: list[QAPair]
    """With text; empty for a random model."""
    lengths: list[tuple[int, int]]
    """Tokens of prompt and answer, uncut, the end token counted; of every pair, where there are pairs."""

    def examples(self, subject: Subject, config: TrainConfig) -> list[Example]:
        """The rows that our own arms train on, cut to `config.max_length`."""
        if self.pairs:
            return build_examples(self.pairs, subject.tokenizer, PromptConfig(), config)
        rows = enumerate(self._random_rows(subject))
        return [_example(number, ids[: config.max_length], prompt) for number, (ids, prompt) in rows]

    def trl_rows(self, subject: Subject, chosen: Sequence[int]) -> list[dict[str, Any]]:
        """Rows as TRL's documentation wants them: prompt and completion in messages; token ids where there is no
        text."""
        if self.pairs:
            return [
                {
                    "prompt": build_messages(pair.question, PromptConfig()),
                    "completion": [{"role": "assistant", "content": pair.answer}],
                }
                for pair in (self.pairs[number] for number in chosen)
            ]
        rows = self._random_rows(subject)
        examples = [_example(number, *rows[number]) for number in chosen]
        return [{"input_ids": example.input_ids, "labels": example.labels} for example in examples]

    def prompts(self, subject: Subject) -> list[list[int]]:
        """What is to be answered, in token ids."""
        if self.pairs:
            asked = (build_messages(pair.question, PromptConfig()) for pair in self.pairs)
            return [encode_prompt(subject.tokenizer, messages) for messages in asked]
        return [ids[:prompt] for ids, prompt in self._random_rows(subject)]

    def _random_rows(self, subject: Subject) -> list[tuple[list[int], int]]:
        words = range(FIRST_WORD, len(subject.tokenizer))
        return [
            (Random(number).choices(words, k=prompt + answer), prompt)
            for number, (prompt, answer) in enumerate(self.lengths)
        ]


def find_workload(subject: Subject, *, longest: int | None = None) -> Workload:
    """2,000 pairs of MedQuAD where it is at hand, else of the bundled sample; lengths alone for a random model.

    `longest` leaves out rows with more tokens than that.
    """
    if subject.folder is None:
        pairs, name = [], "lengths of MedQuAD"
        lengths = [(prompt, answer) for prompt, answer in json.loads(LENGTHS.read_text(encoding="utf-8"))["rows"]]
    else:
        corpus = medquad() or sample_path()
        name = "sample" if corpus == sample_path() else "MedQuAD"
        pairs = draw_pairs(corpus)
        lengths = token_counts(pairs, subject.tokenizer)
    kept = [number for number, row in enumerate(lengths) if longest is None or sum(row) <= longest]
    return Workload(name, [pairs[number] for number in kept] if pairs else [], [lengths[number] for number in kept])


def medquad() -> Path | None:
    """MedQuAD's archive, where the tests look for it too."""
    beside = Path(__file__).parents[2] / "shared" / "data" / "MedQuAD-master.zip"
    archive = Path(os.environ.get("VADE_MEDQUAD", beside))
    return archive if archive.exists() else None


def draw_pairs(corpus: Path) -> list[QAPair]:
    """A random choice of the cleaned pairs, always the same."""
    pairs, _ = clean(load_corpus(corpus, CorpusConfig()), CorpusConfig())
    return Random(0).sample(pairs, min(ROWS, len(pairs)))


def token_counts(pairs: Sequence[QAPair], tokenizer: "PreTrainedTokenizerBase") -> list[tuple[int, int]]:
    """Tokens of prompt and answer, the end token counted."""
    return [
        (
            len(encode_prompt(tokenizer, build_messages(pair.question, PromptConfig()))),
            len(encode_answer(tokenizer, pair.answer)) + 1,
        )
        for pair in pairs
    ]


def _example(number: int, ids: list[int], prompt: int) -> Example:
    return Example(str(number), ids, [-100] * prompt + ids[prompt:])


def count_trained(labels: Sequence[int]) -> int:
    """Tokens that are predicted; nothing stands before the first one to predict it from."""
    return sum(label != -100 for label in labels[1:])


def matrix_product_rate(dtype: str, device: str, seconds: float = 1.0) -> float:
    """Floating-point operations per second of a large square matrix product, the best of those in `seconds`."""
    import torch

    side = 8192 if device == "cuda" else 1536
    left, right = (torch.randn(side, side, device=device).to(getattr(torch, dtype)) for _ in range(2))
    best, until = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < until:
        began = time.perf_counter()
        (left @ right)[0, 0].item()  # waits for an accelerator
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def main() -> None:
    """Write lengths.json."""
    archive = medquad()
    if archive is None:
        raise SystemExit("MedQuAD is not on this machine: set VADE_MEDQUAD to its zip")
    tokenizer = load_tokenizer(locate_base(ModelConfig(), offline=False).path)
    rows = token_counts(draw_pairs(archive), tokenizer)
    head: Mapping[str, object] = {
        "made_by": "python -m benchmarks.workload",
        "what": f"tokens of prompt and answer of {len(rows)} random pairs of MedQuAD, cleaned, default prompt, uncut",
        "tokenizer": "SmolLM2-135M-Instruct",
    }
    write_whole(LENGTHS, json.dumps({**head, "rows": rows}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
