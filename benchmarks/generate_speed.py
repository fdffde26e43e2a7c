"""How fast are answers written: one at a time with the adapter beside the weights, in plain batches, and by ours?

    python -m benchmarks.generate_speed [--quick] [--model smollm2|tinyllama|FOLDER] [--random] [--adapter FOLDER]
        [--rounds N] [--prompts N] [--one-at-a-time N] [--batch-size N] [--max-new-tokens N] [--refill | --no-refill]
        [--device cpu|cuda] [--out FILE]

| arm | how |
|---|---|
| `one` | transformers' `generate`, one prompt at a time, adapter not merged; a random subset of a round's prompts |
| `batches` | transformers' `generate`, merged weights, prompts in the order they come, padded on the left |
| `continuous` | transformers' continuous batching (`generate_batch`), merged weights, with a cache as large as ours |
| `ours` | `vademecum.generation.generate`, merged weights |
| `waiting` | the same where ours refills its batches (on a GPU, or by `--refill`): without that |

The same prompts, greedy, no repetition control, the same longest answer. Arms take turns within a round, in an order
that rotates; ratios are taken within a round; a figure is the median over the rounds with the slowest and the fastest,
and n counts answers. Without `--adapter` the adapter is a random one that changes the answers.

Ours ends an answer that loops; transformers writes it to the end. So the other arms' token ids are cut by the rule
that ours follows (first end token, or first loop) before the texts are compared: `generate.equal_share` is the share of
equal ones. `generate.difference_gap` looks at the first token where an answer differs: by how much the likeliest token
led the second in the one-at-a-time answer, in logits. In float32 a difference that is no mistake is a tie to within
rounding. `generate.tokens_per_second.ARM` counts the tokens that an arm wrote, loops included. Random weights loop at
once: with them the answers per second say little, the tokens per second more.
"""

import argparse
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from benchmarks.results import Figure, figure, result_file, write_result
from benchmarks.workload import Subject, find_subject, find_workload

from vademecum.config import LoraConfig
from vademecum.generation import REFILLED_BATCHES, Decoding, KeptAnswers, Prompt, generate
from vademecum.generation.decoding import READ_SLOTS
from vademecum.generation.repetition import tokens_loop
from vademecum.hardware import choose_dtype, probe_hardware
from vademecum.models import attach_adapter, load_adapter, merge
from vademecum.prompts import decode_answer, end_token_id
from vademecum.sources import cache_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PAGE_TOKENS = 256
"""Of the cache of continuous batching; flash attention wants a multiple of it."""
ADAPTER_SCALE = 0.02
"""Standard deviation of the random adapter's second factors: enough to change answers, not to break the language."""


@dataclass(frozen=True)
class Bench:
    """What the arms answer with."""

    subject: Subject
    unmerged: "PreTrainedModel"
    merged: "PreTrainedModel"
    decoding: Decoding

    @property
    def arms(self) -> tuple[str, ...]:
        """Those that take turns."""
        import transformers

        more = ["continuous"] if hasattr(transformers, "ContinuousBatchingConfig") else []
        return ("one", "batches", *more, "ours", *(["waiting"] if self.decoding.chunk_batches > 1 else []))

    @property
    def ends(self) -> set[int]:
        """The tokens that end an answer, in all arms."""
        named = self.unmerged.generation_config.eos_token_id
        return {end_token_id(self.subject.tokenizer), *(named if isinstance(named, list) else [named])} - {None}


@dataclass
class Answers:
    """What an arm wrote for some prompts."""

    seconds: float
    texts: dict[str, str]
    """By prompt, cut where ours would end."""
    tokens: int
    """Written, loops included, ends not."""
    ids: dict[str, list[int]]
    """Token ids as the texts are made of; none for ours."""


def load(subject: Subject, adapter: Path | None, dtype: str, device: str, decoding: Decoding) -> Bench:
    """The model twice, with the same adapter: beside the weights and merged into them."""
    import torch

    models = []
    for _ in range(2):
        base = subject.load(dtype, device)
        if adapter is not None:
            models.append(load_adapter(base, adapter))
            continue
        model = attach_adapter(base, LoraConfig(), seed=0)
        generator = torch.Generator().manual_seed(1)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.data = (torch.randn(weight.shape, generator=generator) * ADAPTER_SCALE).to(weight.device)
        models.append(model)
    return Bench(subject, models[0].eval(), merge(models[1]).eval(), decoding)


def answer(arm: str, bench: Bench, prompts: Sequence[Prompt]) -> Answers:
    """Let one arm answer, by the clock."""
    if arm in ("ours", "waiting"):
        sink = KeptAnswers()
        decoding = bench.decoding if arm == "ours" else bench.decoding.model_copy(update={"chunk_batches": 1})
        began = time.perf_counter()
        generate(bench.merged, bench.subject.tokenizer, prompts, decoding, sink)
        seconds = time.perf_counter() - began
        texts = {prediction.id: prediction.text for prediction in sink.predictions}
        return Answers(seconds, texts, sum(prediction.new_tokens for prediction in sink.predictions), {})
    sizes = {"one": 1, "batches": bench.decoding.batch_size, "continuous": len(prompts)}
    model = bench.unmerged if arm == "one" else bench.merged
    write = continuous_generate if arm == "continuous" else plain_generate
    written: dict[str, list[int]] = {}
    began = time.perf_counter()
    for start in range(0, len(prompts), sizes[arm]):
        batch = prompts[start : start + sizes[arm]]
        rows = write(model, [prompt.input_ids for prompt in batch], bench)
        written |= {prompt.id: row for prompt, row in zip(batch, rows, strict=True)}
    seconds = time.perf_counter() - began
    ids = {id: cut_loop(row) for id, row in written.items()}
    texts = {id: decode_answer(bench.subject.tokenizer, row) for id, row in ids.items()}
    return Answers(seconds, texts, sum(map(len, written.values())), ids)


def plain_generate(model: Any, rows: Sequence[Sequence[int]], bench: Bench) -> list[list[int]]:  # noqa: ANN401
    """transformers' own greedy `generate`; new tokens up to the first end token."""
    import torch

    width, pad = max(map(len, rows)), int(bench.subject.tokenizer.pad_token_id)
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    with torch.inference_mode():
        found = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=bench.decoding.max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(bench.ends),
            pad_token_id=pad,
        )
    new: list[list[int]] = found[:, width:].tolist()
    return [up_to_end(row, bench.ends) for row in new]


def continuous_generate(model: Any, rows: Sequence[Sequence[int]], bench: Bench) -> list[list[int]]:  # noqa: ANN401
    """transformers' continuous batching, greedy; new tokens up to the first end token.

    Unasked it takes nearly all free memory for its cache: it gets room for as many answers as ours writes at a time.
    What it sets up for every call (its cache, CUDA graphs) is in its time.

    Raises:
        RuntimeError: it did not answer all of them.
    """
    from transformers import ContinuousBatchingConfig, GenerationConfig

    longest, at_once = max(map(len, rows)) + bench.decoding.max_new_tokens, bench.decoding.batch_size
    room = ContinuousBatchingConfig(
        page_size=PAGE_TOKENS,
        num_blocks=at_once * -(-longest // PAGE_TOKENS),
        max_batch_tokens=READ_SLOTS,
        max_requests_per_batch=at_once,
    )
    how = GenerationConfig(
        max_new_tokens=bench.decoding.max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(bench.ends),
        pad_token_id=int(bench.subject.tokenizer.pad_token_id),
    )
    found = model.generate_batch([list(row) for row in rows], generation_config=how, continuous_batching_config=room)
    if failed := [name for name, one in found.items() if one.error] or len(found) < len(rows):
        raise RuntimeError(f"continuous batching answered {len(found)} of {len(rows)}; failed: {failed}")
    new = [found[name].generated_tokens for name in sorted(found, key=lambda name: int(name.rpartition("_")[2]))]
    return [up_to_end(row, bench.ends) for row in new]


def up_to_end(row: list[int], ends: Collection[int]) -> list[int]:
    """New tokens before the first that ends an answer."""
    return row[: next((place for place, token in enumerate(row) if token in ends), len(row))]


def cut_loop(ids: Sequence[int]) -> list[int]:
    """The ids up to where ours would have noticed a loop."""
    return list(ids[: next((end for end in range(1, len(ids) + 1) if tokens_loop(ids[:end])), len(ids))])


def difference_gap(bench: Bench, prompt: Prompt, ids: Sequence[int], text: str) -> float:
    """By how much the likeliest token led where the one-at-a-time answer `ids` leaves `text`, in logits."""
    import torch

    tokenizer = bench.subject.tokenizer
    # A character can take several tokens; until its last one it decodes to U+FFFD.
    begins = (decode_answer(tokenizer, ids[: place + 1]).rstrip("\ufffd") for place in range(len(ids)))
    place = next((place for place, begin in enumerate(begins) if not text.startswith(begin)), len(ids))
    row = torch.tensor([[*prompt.input_ids, *ids[:place]]], device=bench.unmerged.device)
    with torch.inference_mode():
        first, second = bench.unmerged(input_ids=row, logits_to_keep=1).logits[0, -1].float().topk(2).values.tolist()
    return float(first - second)


def figures(rounds: Sequence[dict[str, Answers]], gaps: Sequence[float]) -> dict[str, Figure]:
    """What the rounds done so far say."""
    found: dict[str, Figure] = {}
    in_all = [arm for arm in rounds[0] if all(arm in each for each in rounds)]
    for arm in in_all:
        done = [each[arm] for each in rounds]
        n = sum(len(answers.texts) for answers in done)
        found[f"generate.answers_per_second.{arm}"] = figure(
            [len(answers.texts) / answers.seconds for answers in done], "answers/s", n
        )
        found[f"generate.tokens_per_second.{arm}"] = figure(
            [answers.tokens / answers.seconds for answers in done], "tokens/s", n
        )
    against = {
        "speedup": "one",
        "speedup_over_batches": "batches",
        "speedup_over_continuous": "continuous",
        "refill_speedup": "waiting",
    }
    for name, other in against.items():
        if other not in in_all:
            continue
        ratios = [
            len(each["ours"].texts) / each["ours"].seconds * each[other].seconds / len(each[other].texts)
            for each in rounds
        ]
        found[f"generate.{name}"] = figure(ratios, "ratio", sum(len(each[other].texts) for each in rounds))
    arms = {"equal_share": "ours", "equal_share.batches": "batches", "equal_share.continuous": "continuous"}
    for name, arm in arms.items():
        if arm not in in_all:
            continue
        equal = [[each[arm].texts[id] == text for id, text in each["one"].texts.items()] for each in rounds]
        share = figure([sum(row) / len(row) for row in equal], "share", sum(map(len, equal)))
        found[f"generate.{name}"] = {**share, "value": sum(map(sum, equal)) / share["n"]}
    if gaps:
        found["generate.difference_gap"] = figure(gaps, "logits", len(gaps))
    return found


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of a few short answers, another file")
    parser.add_argument("--model", default="smollm2", help="smollm2, tinyllama (at random) or a checkpoint's folder")
    parser.add_argument("--random", action="store_true", help="SmolLM2's shape with random weights")
    parser.add_argument("--adapter", type=Path, help="a trained one, such as runs/cpu/adapter")
    parser.add_argument("--rounds", type=int, help="default: 4; quick: 1")
    parser.add_argument("--prompts", type=int, help="per round; default: 64; quick: 16")
    parser.add_argument("--one-at-a-time", type=int, help="prompts per round of that arm; default: 8; quick: 4")
    parser.add_argument("--batch-size", type=int, default=64, help="of batches and ours")
    parser.add_argument("--max-new-tokens", type=int, help="default: 320; quick: 64")
    parser.add_argument("--refill", action=argparse.BooleanOptionalAction, help="default: on a GPU, as in a run")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def play_round(
    number: int, bench: Bench, prompts: Sequence[Prompt], few: int
) -> tuple[dict[str, Answers], list[float]]:
    """Let every arm answer; with the gaps of the answers that differ."""
    subset = Random(number).sample(prompts, min(few, len(prompts)))
    turn = number % len(bench.arms)
    found: dict[str, Answers] = {}
    for arm in [*bench.arms[turn:], *bench.arms[:turn]]:
        try:
            found[arm] = answer(arm, bench, subset if arm == "one" else prompts)
        except RuntimeError as error:
            if arm != "continuous":
                raise
            print(f"round {number + 1}: {error}", flush=True)
            continue
        print(f"round {number + 1}: {arm}: {len(found[arm].texts) / found[arm].seconds:.2f} answers/s", flush=True)
    one, ours = found["one"], found["ours"]
    different = [prompt for prompt in subset if ours.texts[prompt.id] != one.texts[prompt.id]]
    return found, [difference_gap(bench, prompt, one.ids[prompt.id], ours.texts[prompt.id]) for prompt in different]


def main() -> None:
    """Run the rounds, writing the result after each."""
    given = parse()
    subject = find_subject(given.model, random=given.random)
    workload = find_workload(subject)
    hardware = probe_hardware(rates_cache=cache_folder())
    device = given.device or hardware.device
    refill = device != "cpu" if given.refill is None else given.refill
    decoding = Decoding(
        max_new_tokens=given.max_new_tokens or (64 if given.quick else 320),
        batch_size=given.batch_size,
        chunk_batches=REFILLED_BATCHES if refill else 1,
    )
    bench = load(subject, given.adapter, choose_dtype(hardware, device)[0], device, decoding)
    size = given.prompts or (16 if given.quick else 64)
    few = given.one_at_a_time or (4 if given.quick else 8)
    settings = {
        "quick": given.quick,
        "weights": "random" if subject.folder is None else "real",
        "adapter": "random" if given.adapter is None else "trained",
        "prompts": workload.name,
        "dtype": str(bench.merged.dtype).removeprefix("torch."),
        "device": device,
        "prompts_per_round": size,
        "one_at_a_time": few,
        **decoding.model_dump(),
    }
    asked = [Prompt(str(number), ids) for number, ids in enumerate(workload.prompts(subject))]
    file = given.out or result_file("generate_speed", quick=given.quick)
    suffix = ".tinyllama" if subject.name == "tinyllama" else ""
    for arm in bench.arms:
        if arm != "continuous":
            answer(arm, bench, asked[:1])  # the first call of all loads kernels
    rounds: list[dict[str, Answers]] = []
    gaps: list[float] = []
    for number in range(given.rounds or (1 if given.quick else 4)):
        found, more = play_round(number, bench, Random(number).sample(asked, min(size, len(asked))), few)
        rounds.append(found)
        gaps += more
        measured = {name + suffix: value for name, value in figures(rounds, gaps).items()}
        write_result(file, subject.name, settings, measured)
    print(f"written to {file}")


if __name__ == "__main__":
    main()
