"""decoding: one repetition control for all systems, chosen on validation pairs → decoding.json.
predict/SYSTEM: test pairs → predictions/SYSTEM.jsonl, chunk by chunk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from vademecum.baselines import copy_answers, scope
from vademecum.config import EvaluateConfig, RunConfig
from vademecum.errors import RunError
from vademecum.evaluation import METRICS, score
from vademecum.files import write_whole
from vademecum.generation import REFILLED_BATCHES, Decoding, chunks, generate
from vademecum.hardware import compact_memory, limit_cuda_memory, limit_libraries, out_of_memory_told
from vademecum.models import is_quantized, load_adapter, logits_change, merge
from vademecum.planning import Plan
from vademecum.records import Prediction, QAPair
from vademecum.stages.material import Base, Pairs, model_digest, prompts_for, subset
from vademecum.stages.road import Road, Stage
from vademecum.stages.train import ADAPTER, scored_systems, watched_bytes
from vademecum.stopping import Stop

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REPETITION_CONTROLS = (0, 6)
"""Values of no_repeat_ngram_size that `auto` chooses among; 6 lets common phrases stand."""

MODEL_SETTINGS = ("seed", "prompt", "model")
IF_FULL = (
    "look with nvidia-smi whether others hold its memory, and give the same command again: the chunks of answers that "
    "are written stay; or set generate.batch_size below the answer_rows of plan.json, or lower generate.max_new_tokens"
)
"""Where answering runs out of a GPU's memory."""


@dataclass
class ChunkFiles:
    """Predictions on their way to disk: one file per finished chunk, so that a broken run goes on after the last."""

    folder: Path
    total: int
    stop: Stop
    report: Callable[[int, int], None] = field(default=lambda done, total: None)
    limit_bytes: int | None = None
    say: Callable[[str], None] = field(default=lambda text: None)

    def done(self) -> int:
        """How many chunks, from the first on, are on disk."""
        count = 0
        while self._file(count).is_file():
            count += 1
        return count

    def write(self, chunk: int, predictions: list[Prediction]) -> None:
        """Keep a finished chunk."""
        write_whole(self._file(chunk), "".join(f"{one.model_dump_json()}\n" for one in predictions))
        self.report(chunk + 1, self.total)

    def lessen(self, rows: int) -> None:
        """Tell whoever watches."""
        self.say(f"memory ran short: from here on {rows} answers at a time, the same up to rounding")

    def read(self) -> list[Prediction]:
        """All predictions, in order of id."""
        files = [self._file(chunk).read_bytes() for chunk in range(self.total)]
        rows = [Prediction.model_validate_json(line) for lines in files for line in lines.splitlines()]
        return sorted(rows, key=lambda row: row.id)

    def _file(self, chunk: int) -> Path:
        return self.folder / f"chunk-{chunk:05d}.jsonl"


def decoding_for(config: RunConfig, no_repeat_ngram_size: int, *, refill: bool = False) -> Decoding:
    """The decoding that every system of the run uses; expects a configuration that the plan was applied to.

    `refill`: prompts take the places of answers that have ended. On a GPU, where a step takes about as long for a few
    rows as for many; on a CPU a step costs what its rows cost, and little is gained (docs/experiments.md).
    """
    return Decoding(
        max_new_tokens=config.generate.max_new_tokens,
        temperature=config.generate.temperature,
        top_p=config.generate.top_p,
        no_repeat_ngram_size=no_repeat_ngram_size,
        batch_size=config.generate.batch_size or 1,
        chunk_batches=REFILLED_BATCHES if refill else 1,
        seed=config.seed,
    )


def tried_systems(config: RunConfig) -> list[str]:
    """The systems whose validation answers choose the decoding; none where no model answers."""
    if set(config.generate.systems) == {"copy"}:
        return []
    return [name for name in ("base", "tuned") if name in config.generate.systems] or ["base"]


def _can_try(road: Road) -> list[str]:
    scored = scored_systems(road.run, road.config)
    tried = tried_systems(road.config)
    return tried and ([name for name in tried if name in scored] or ["base"])


@out_of_memory_told("answering", IF_FULL)
def choose_decoding(road: Road, folder: Path) -> None:
    """Answer validation pairs with each repetition control; keep the one with the best mean ROUGE over the systems."""
    run = road.run
    plan = run.read_record("plan.json", Plan)
    config = plan.apply(road.config)
    decoding_of = partial(decoding_for, config, refill=plan.device != "cpu")
    systems, size = _can_try(road), config.generate.no_repeat_ngram_size
    if size != "auto" or not systems:
        chosen = decoding_of(0 if size == "auto" else size)
        run.write_json("decoding.json", {"decoding": chosen.model_dump(), "chosen_on": {}})
        return
    pairs, base = Pairs.read(road), Base.locate(road)
    asked = subset(pairs.of("validation"), config.generate.validation_pairs, config.seed)
    prompts = prompts_for("base", asked, [], base, config)
    scores: dict[int, list[float]] = {size: [] for size in REPETITION_CONTROLS}
    total = len(systems) * len(REPETITION_CONTROLS)
    for system in systems:
        model = load_system(road, base, plan, system)
        for size in REPETITION_CONTROLS:
            decoding = decoding_of(size)
            place = folder / f"{system}-{size}-{decoding.chunk_batches}"
            sink = ChunkFiles(place, len(chunks(prompts, decoding)), road.stop, **_watched(road, plan))
            generate(model, base.tokenizer, prompts, decoding, sink)
            scores[size].append(_mean_rouge(sink.read(), asked, pairs))
            road.observer.progress(sum(map(len, scores.values())), total, "trials")
        del model  # else it would lie beside the next one
    best = max(REPETITION_CONTROLS, key=lambda size: fmean(scores[size]))
    run.write_json(
        "decoding.json",
        {
            "decoding": decoding_of(best).model_dump(),
            "chosen_on": {
                "validation_pairs": len(asked),
                "systems": systems,
                "mean_rouge": {str(size): dict(zip(systems, found, strict=True)) for size, found in scores.items()},
            },
        },
    )


def _mean_rouge(predictions: Sequence[Prediction], asked: Sequence[QAPair], pairs: Pairs) -> float:
    # With the default settings: scoring the verdict in another way must not make answers anew.
    rows = score(predictions, {pair.id: pair for pair in asked}, pairs.groups, EvaluateConfig())
    return fmean(fmean(row.metrics[metric] for metric in METRICS) for row in rows)


def load_to_answer(base: Base, config: RunConfig, *, device: str, dtype: str) -> "PreTrainedModel":
    """The base model with the weights that answer, and the machine set to answer with it.

    All systems answer with the same weights, in 16 or 32 bits where those fit: a base in 4 bits would be held against a
    tuned model that is not. What training may have set in this process is taken back: memory kept compact, which costs
    time, and the budget's limit on a CUDA device, to which answering could not give way.
    """
    limit_libraries()
    compact_memory(False)
    if device == "cuda":
        limit_cuda_memory(None)
    held = config.model.model_copy(update={"quantization": config.generate.quantization})
    return base.load(held, device=device, dtype=dtype)


def load_system(road: Road, base: Base, plan: Plan, system: str) -> "PreTrainedModel":
    """The model of a system on the plan's device; an adapter is merged, or beside quantized weights applied.

    Raises:
        RunError: the base is another one than was planned with; or the adapter, which had an effect after training,
            has none: scoring it would be scoring the base.
    """
    base.check(plan)
    model = load_to_answer(base, plan.apply(road.config), device=plan.device, dtype=plan.dtype)
    if system != "tuned":
        return model
    adapted = load_adapter(model, road.run.file("adapter"), base=base.files)
    ids = base.tokenizer("What are the symptoms?")["input_ids"]
    if logits_change(adapted, ids) == 0:
        raise RunError(
            "the saved adapter does not change the model's output, and after training it did: it was not applied",
            hint="give --force train, and report it if it happens again",
        )
    if is_quantized(adapted):
        return adapted.get_base_model()  # with the adapter's layers beside its own
    return merge(adapted)


def answer_with(system: str) -> Callable[[Road, Path], None]:
    """The work of one system's predict stage."""

    @out_of_memory_told("answering", IF_FULL)
    def answer(road: Road, folder: Path) -> None:
        config, pairs = road.config, Pairs.read(road)
        train, asked = pairs.of("train"), pairs.test(config)
        if system in ("copy", "few-shot"):
            road.observer.say(f"{system}: {scope(train, asked)}")
        if system == "copy":
            answers = sorted(copy_answers(train, asked), key=lambda answer: answer.id)
            road.run.write_rows("predictions/copy.jsonl", answers)
            return
        base, plan = Base.locate(road), road.run.read_record("plan.json", Plan)
        decoding = Decoding.model_validate(road.run.read_json("decoding.json")["decoding"])
        prompts = prompts_for(system, asked, train, base, config)
        bare = sum(not prompt.shown for prompt in prompts)
        if system == "few-shot" and bare:
            road.observer.say(f"few-shot: {bare} of {len(prompts)} prompts have no example that fits")
        sink = ChunkFiles(
            folder,
            len(chunks(prompts, decoding)),
            road.stop,
            lambda done, total: road.observer.progress(
                min(len(prompts), done * decoding.batch_size * decoding.chunk_batches), len(prompts), "answers"
            ),
            **_watched(road, plan),
        )
        model = load_system(road, base, plan, system)
        generate(model, base.tokenizer, prompts, decoding, sink)
        road.run.write_rows(f"predictions/{system}.jsonl", sink.read())

    return answer


def _watched(road: Road, plan: Plan) -> dict[str, Any]:
    """What keeps answers within the memory, for their sink."""
    return {"limit_bytes": watched_bytes(road.config.budget, plan, 1), "say": road.observer.say}


def _answering_inputs(road: Road) -> dict[str, str]:
    """Of the plan only what decides answers: another length of training leaves the other systems' answers alone."""
    plan = road.run.read_record("plan.json", Plan)
    return {
        **model_digest(road),
        "plan.base_digest": plan.base_digest,
        "plan.device": plan.device,
        "plan.dtype": plan.dtype,
        **_quantization(road),
    }


def _quantization(road: Road) -> dict[str, str]:
    """Of the weights that answer, where they are quantized."""
    held = road.run.read_record("plan.json", Plan).apply(road.config).generate.quantization
    return {} if held == "none" else {"quantization": held}


def predict_stage(system: str) -> Stage:
    """The stage in which one system answers the test pairs."""
    settings = ["seed", "generate.test_pairs"]
    reads = ["pairs.jsonl", "splits.jsonl"]
    if system != "copy":
        settings += ["prompt", "model.name", "model.revision"]  # of quantization, _answering_inputs
        reads.append("decoding.json")
    if system == "few-shot":
        settings.append("generate.few_shot_k")
    if system == "tuned":
        reads += ADAPTER
    return Stage(
        name=f"predict/{system}",
        settings=tuple(settings),
        reads=tuple(reads),
        writes=(f"predictions/{system}.jsonl",),
        work=answer_with(system),
        outside=None if system == "copy" else _answering_inputs,
        precious=system != "copy",
        wanted=lambda road: system in scored_systems(road.run, road.config),
    )


def decoding_stage(tuned: bool) -> Stage:
    """The stage that fixes the decoding; with an adapter it is tried too."""
    return Stage(
        name="decoding",
        settings=(
            *MODEL_SETTINGS,
            "generate.max_new_tokens",
            "generate.temperature",
            "generate.top_p",
            "generate.no_repeat_ngram_size",
            "generate.validation_pairs",
            "generate.batch_size",
        ),
        reads=("pairs.jsonl", "splits.jsonl", "plan.json", *(ADAPTER if tuned else ())),
        writes=("decoding.json",),
        work=choose_decoding,
        outside=lambda road: {**model_digest(road), **_quantization(road), "tried": " ".join(_can_try(road))},
    )
