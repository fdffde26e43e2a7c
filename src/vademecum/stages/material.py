"""What several stages take from the run's files in the same way: pairs by split, subsets, the base model, prompts."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from vademecum.baselines import nearest
from vademecum.config import ModelConfig, RunConfig
from vademecum.errors import ConfigError, RunError
from vademecum.files import digest_file, expanded
from vademecum.generation import Prompt
from vademecum.hardware import check_device
from vademecum.models import BaseModelFiles, load_base, load_tokenizer, locate_base
from vademecum.planning import Plan, read_model_config
from vademecum.prompts import build_messages, encode_answer, encode_prompt
from vademecum.records import Assignment, QAPair, Split
from vademecum.stages.road import Road
from vademecum.training import Example, build_examples

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FINGERPRINT_BYTES = 1 << 16
CANDIDATES = 8
"""Nearest pairs that are looked at for each example of a few-shot prompt; overlong answers are passed over."""


def subset(pairs: Sequence[QAPair], count: int | None, seed: int) -> list[QAPair]:
    """A random choice of `count` pairs (all, when None), the same whatever the order, returned in order of id.

    A larger count with the same seed contains the smaller choice.
    """
    if count is None or count >= len(pairs):
        chosen = list(pairs)
    else:
        chosen = sorted(pairs, key=lambda pair: hashlib.sha256(f"{seed}:{pair.id}".encode()).digest())[:count]
    return sorted(chosen, key=lambda pair: pair.id)


def model_digest(road: Road) -> dict[str, str]:
    """Notices that a local base model was exchanged. Others go by name and revision, and `Base.check` sees a change."""
    folder = expanded(road.config.model.name)
    if not folder.is_dir():
        return {}
    sha = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".jinja", ".model", ".txt"):
            sha.update(f"{file.name} {digest_file(file)}\n".encode())
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as handle:  # gigabytes: the size, the header and the end tell another model apart
            size = file.stat().st_size
            sha.update(f"{file.name} {size}\n".encode() + handle.read(FINGERPRINT_BYTES))
            handle.seek(max(0, size - FINGERPRINT_BYTES))
            sha.update(handle.read())
    return {"model": sha.hexdigest()}


@dataclass(frozen=True)
class Pairs:
    """The corpus of a run, by split."""

    pairs: dict[str, QAPair]
    assignments: list[Assignment]

    @classmethod
    def read(cls, road: Road) -> "Pairs":
        """From pairs.jsonl and splits.jsonl."""
        pairs = {pair.id: pair for pair in road.run.read_rows("pairs.jsonl", QAPair)}
        return cls(pairs, road.run.read_rows("splits.jsonl", Assignment))

    def of(self, split: Split) -> list[QAPair]:
        """The pairs of one split, in order of id."""
        return sorted((self.pairs[row.id] for row in self.assignments if row.split == split), key=lambda pair: pair.id)

    @cached_property
    def groups(self) -> dict[str, str]:
        """Id → group."""
        return {row.id: row.group for row in self.assignments}

    def train(self, config: RunConfig) -> list[QAPair]:
        """What is trained on."""
        return subset(self.of("train"), config.train.max_pairs, config.seed)

    def test(self, config: RunConfig) -> list[QAPair]:
        """What is answered for the verdict."""
        return subset(self.of("test"), config.generate.test_pairs, config.seed)

    def test_groups(self, config: RunConfig) -> int:
        """How many groups these pairs are in: what the verdict counts as independent."""
        return len({self.groups[pair.id] for pair in self.test(config)})


@dataclass(frozen=True)
class Base:
    """A located base model with its tokenizer; the weights are loaded on demand."""

    files: BaseModelFiles
    tokenizer: "PreTrainedTokenizerBase"

    @classmethod
    def locate(cls, road: Road, *, weights: bool = True) -> "Base":
        """Find or fetch the base model and load its tokenizer; without `weights` no more than its configuration."""
        files = locate_base(road.config.model, offline=road.offline, weights=weights)
        return cls(files, load_tokenizer(files.path))

    def check(self, plan: Plan) -> None:
        """Refuse another base model than the one that was planned with, and a machine without the plan's device.

        Raises:
            RunError: its weights or configuration have changed, such as a hub's branch that moved on; or the device is
                not here.
        """
        try:
            check_device(plan.device)
        except ConfigError:
            raise RunError(
                f"the run was planned for {plan.device}, which is not on this machine",
                hint="go on where it was begun, or give --force plan to begin anew here; `vade ask` answers anywhere",
            ) from None
        if self.files.digest != plan.base_digest:
            raise RunError(
                f"the base model {self.files.name} is another one than when the run was planned",
                hint="pin model.revision to a commit, and give --force plan to begin anew with the present one",
            )

    @property
    def context_tokens(self) -> int | None:
        """Tokens that prompt and answer may have together; None where the model's configuration names no limit."""
        named = read_model_config(self.files.path).get_text_config().to_dict()
        limit = named.get("max_position_embeddings")
        return int(limit) if limit is not None else None

    def load(self, model: ModelConfig, *, device: str, dtype: str) -> "PreTrainedModel":
        """The base model with its weights."""
        return load_base(self.files.path, model, dtype=dtype, device=device)


def training_rows(pairs: Pairs, base: Base, config: RunConfig) -> tuple[list[Example], list[Example]]:
    """Of the train pairs, and of the validation pairs that are looked at: what the plan audits and training takes."""
    validation = subset(pairs.of("validation"), config.train.eval_pairs, config.seed)
    train, held_out = (
        build_examples(chosen, base.tokenizer, config.prompt, config.train)
        for chosen in (pairs.train(config), validation)
    )
    return train, held_out


def prompts_for(
    system: str, pairs: Sequence[QAPair], train: Sequence[QAPair], base: Base, config: RunConfig
) -> list[Prompt]:
    """One prompt per pair; for `few-shot` with the nearest train pairs of the same question type in it.

    Where the model's context does not hold all of them and an answer, the farthest are left out; `shown` tells.
    """
    shown: list[list[QAPair]] = [[] for _ in pairs]
    if system == "few-shot":
        shown = _examples(pairs, train, base, config)
    context = base.context_tokens
    room = None if context is None else context - config.generate.max_new_tokens
    return [_prompt(pair, examples, base, config, room) for pair, examples in zip(pairs, shown, strict=True)]


def _examples(pairs: Sequence[QAPair], train: Sequence[QAPair], base: Base, config: RunConfig) -> list[list[QAPair]]:
    """The nearest train pairs that show an answer of the length that is asked for: at most max_new_tokens."""
    few, longest = config.generate.few_shot_k, config.generate.max_new_tokens
    return [
        [example for example in near if len(encode_answer(base.tokenizer, example.answer)) <= longest][:few]
        for near in nearest(train, pairs, few * CANDIDATES)
    ]


def _prompt(pair: QAPair, examples: Sequence[QAPair], base: Base, config: RunConfig, room: int | None) -> Prompt:
    # The nearest stands last, next to the question.
    messages = build_messages(pair.question, config.prompt, list(reversed(examples)))
    ids = encode_prompt(base.tokenizer, messages)
    if examples and room is not None and len(ids) > room:
        return _prompt(pair, examples[:-1], base, config, room)
    return Prompt(id=pair.id, input_ids=ids, shown=tuple(example.id for example in reversed(examples)))
