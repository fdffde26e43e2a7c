"""How much memory a run will take, from the model's configuration and the shapes of the corpus; no weights are needed.

    training  = process + weights + adapter + activations
    answering = process + weights + cache + reading

weights      Parameters x 4 (float32) or 2 bytes. In 4 bits a linear layer takes 0.5 + 1/64 + 4/16384 each: NF4 in
             blocks of 64, their scales in 8 bits with one float32 for 256 (QLoRA, https://arxiv.org/abs/2305.14314);
             in 8 bits 1, and 4 per row (LLM.int8(), https://arxiv.org/abs/2208.07339). Head, embedding stay whole.
             In parts (FSDP, https://arxiv.org/abs/2304.11277): a share, and what is whole at a time, `_in_parts`.
adapter      r x (in + out) for every adapted layer (LoRA, https://arxiv.org/abs/2106.09685), times 16: float32 weight,
             gradient, and AdamW's two moments.
activations  What forward and backward of the largest micro-batch hold at their worst moment beside the above, counted
             by running them on tensors without content (`tracing`): what autograd keeps, copies for dropout and casts,
             and for every trained token a row of logits, which become their own gradient. With quantized
             weights one layer in numbers, for they are turned back one layer at a time.
             For answering, where that is with quantized weights, the adapter lies beside them, 4 bytes each.
cache        2 (keys, values) x layers x key-value heads x head size x rows x (prompt + new tokens) x 4 or 2, and one
             layer of it a second time while it grows. Its part for the prompts is counted like the activations.
reading      What reading the prompts of one chunk takes more than that, counted likewise.
process      Python, PyTorch and the libraries, measured in this very process, and what they grow by; on CUDA the
             context, an estimate.

On a CPU the heap holds more than is alive in it: `heap_holes`. With `hardware.compact_memory` it does not.
"""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from vademecum.config import BudgetConfig, LoraConfig
from vademecum.generation.decoding import Batch
from vademecum.hardware import CUDA_CONTEXT_BYTES, Device, machine_memory_bytes, process_memory_bytes
from vademecum.models.attention import heads_repeated
from vademecum.planning.tracing import Allocations, faked, read_model_config, shapeless
from vademecum.records import Record
from vademecum.training.fused import fuse_adapters
from vademecum.training.loss import loss_at
from vademecum.training.packed import attend_within_examples
from vademecum.training.sharded import layers_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Quantization = Literal["none", "int8", "nf4"]

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
NF4_BYTES_PER_WEIGHT = 0.5 + 1 / 64 + 4 / (64 * 256)
OPTIMIZER_BYTES_PER_WEIGHT = 8
"""Of AdamW; what another optimizer needs less is not worth a term, an adapter being small."""
ADAPTER_BYTES_PER_WEIGHT = 4 + 4 + OPTIMIZER_BYTES_PER_WEIGHT
"""The weight and its gradient in float32, and the optimizer's state."""

FREE_SHARE = 0.9
"""Of the memory that a run could have when budget.memory_gb does not say."""
HEAP_HOLES = 1.5
"""How much more the heap of a CPU holds than the activations in it, because tensors that stay lie between tensors that
go: 1.36 to 1.51 with the five configurations FITTED of benchmarks/plan_accuracy.py that checkpoint nothing, quantize
nothing and drop nothing; the larger ones are all near the upper end."""
DROPOUT_HEAP_HOLES = 1.65
"""The same with dropout, whose masks and copies come between: 1.63 and 1.68 with the two FITTED that drop. That dropout
needs a factor of its own was learnt from judged configurations."""
LIBRARIES_BYTES = {"float32": 50_000_000, "bfloat16": 17_000_000, "float16": 50_000_000}
"""What the process grows by when it trains, beside all that is counted: 35 to 65 MB with those FITTED that are compact,
17 with the one of them in bfloat16; float16 is not measured, for no CPU would choose it."""


class MemoryPrediction(Record):
    """Bytes at the worst moment, term by term. The process itself is in neither sum; `plan` adds what it measured."""

    weights_bytes: int
    """The frozen base model while it trains."""
    adapter_bytes: int
    """The adapter, its gradients and the optimizer's state."""
    activations_bytes: int
    """Of the largest micro-batch, with the logits of its trained tokens."""
    answering_weights_bytes: int
    """The merged model; quantized weights with the adapter beside them, where unquantized ones do not fit."""
    cache_bytes: int
    """Keys and values of a whole chunk of answers at their full length."""
    reading_bytes: int
    """Beside the cache, while the prompts of a chunk are read."""

    @property
    def training_bytes(self) -> int:
        """At the worst moment of training."""
        return self.weights_bytes + self.adapter_bytes + self.activations_bytes

    @property
    def answering_bytes(self) -> int:
        """At the worst moment of answering."""
        return self.answering_weights_bytes + self.cache_bytes + self.reading_bytes


@dataclass(frozen=True)
class TrainingShape:
    """What decides the memory of training."""

    rows: int
    """Of the largest micro-batch."""
    width: int
    """Its tokens per row, padding counted."""
    trained_tokens: int
    """Most trained tokens in a micro-batch: each is a row of logits."""
    gradient_checkpointing: bool
    quantization: Quantization
    compact: bool
    """Freed tensors leave no holes in the heap."""
    shards: int = 1
    """Processes that keep the frozen weights in parts."""
    packed: bool = False
    """A micro-batch is one row of several examples."""
    heads_repeated: bool = False
    """Keys and values are copied for every head of the query, as on a GPU without flash attention."""


@dataclass(frozen=True)
class AnsweringShape:
    """What decides the memory of answering."""

    rows: int
    prompt_tokens: int
    """Of the longest prompt."""
    new_tokens: int
    quantization: Quantization = "none"


def predict_memory(
    folder: Path, lora: LoraConfig, dtype: str, training: TrainingShape | None, answering: AnsweringShape | None
) -> MemoryPrediction:
    """Predict the worst moments of training and of answering with the base model in `folder`.

    Raises:
        SourceError: its config.json is missing, broken or of an unknown kind.
    """
    weights, adapter = _weights(folder, lora, dtype, training.quantization if training else "none")
    if training and training.shards > 1:
        weights = _in_parts(folder, dtype, _weights(folder, lora, dtype, "none")[0], training.shards)
    cache, reading = _answering(folder, dtype, replace(answering, quantization="none")) if answering else (0, 0)
    return MemoryPrediction(
        weights_bytes=weights if training else 0,
        adapter_bytes=adapter if training else 0,
        activations_bytes=_activations(folder, lora, dtype, training) if training else 0,
        answering_weights_bytes=_answering_weights(
            folder, lora, dtype, answering.quantization if answering else "none"
        ),
        cache_bytes=cache,
        reading_bytes=reading,
    )


class MemoryLimit(NamedTuple):
    """What a process may take, and why."""

    bytes: int
    reason: str


def process_bytes(device: Device, dtype: str) -> int:
    """What the process takes without any model, on the device where the model will lie and compute."""
    if device == "cuda":
        return CUDA_CONTEXT_BYTES
    import peft  # noqa: F401  training will import them, and they are most of it
    import trl.trainer.sft_trainer  # noqa: F401

    return process_memory_bytes() + LIBRARIES_BYTES[dtype]


def memory_limit(budget: BudgetConfig, device: Device, processes: int = 1) -> MemoryLimit:
    """What each of a machine's processes may take: nine tenths of what it could have; where there is a budget, that,
    or all that it could have if this is less.

    It could have what is free and what it holds already, which `process_bytes` counts too. On a GPU processes have one
    each; without, they share it.
    """
    sharing = 1 if device == "cuda" else processes
    could_have = _cuda_bytes() if device == "cuda" else machine_memory_bytes()[1] + process_memory_bytes()
    if budget.memory_gb is None:
        return MemoryLimit(round(could_have * FREE_SHARE / sharing), "nine tenths of what is free")
    allowed = round(budget.memory_gb * 1e9)
    if allowed <= could_have:
        return MemoryLimit(round(allowed / sharing), "budget.memory_gb")
    reason = f"all that is free here; budget.memory_gb allows {budget.memory_gb:g} GB"
    return MemoryLimit(round(could_have / sharing), reason)


def _cuda_bytes() -> int:
    """Of the GPU that this process uses: what is free, and what it holds there; looking opens the context."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return min(total, free + torch.cuda.memory_reserved() + CUDA_CONTEXT_BYTES)


def heap_holes(dropout: float) -> float:
    """How many times the activations in it the heap of a CPU holds."""
    return DROPOUT_HEAP_HOLES if dropout else HEAP_HOLES


@lru_cache
def _weights(folder: Path, lora: LoraConfig, dtype: str, quantization: Quantization) -> tuple[int, int]:
    """Bytes of the frozen weights, and of the adapter with gradients and optimizer state."""
    model: Any = shapeless(read_model_config(folder), dtype, lora)
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    adapter = sum(parameter.numel() for parameter in model.parameters() if id(parameter) in trainable)
    linear = {id(weight): weight for weight in _quantizable(model) if id(weight) not in trainable}
    total = 0.0
    for parameter in model.parameters():
        if id(parameter) in trainable:
            continue
        if quantization == "none" or id(parameter) not in linear:
            total += parameter.numel() * parameter.element_size()
        elif quantization == "nf4":
            total += parameter.numel() * NF4_BYTES_PER_WEIGHT
        else:
            total += parameter.numel() + 4 * parameter.shape[0]
    return round(total), adapter * ADAPTER_BYTES_PER_WEIGHT


def _answering_weights(folder: Path, lora: LoraConfig, dtype: str, quantization: Quantization) -> int:
    """Bytes of the weights that answer: merged, or quantized with the adapter beside them and one layer in numbers."""
    weights, adapter = _weights(folder, lora, dtype, quantization)
    if quantization == "none":
        return weights
    return weights + adapter // ADAPTER_BYTES_PER_WEIGHT * BYTES["float32"] + _largest_layer(folder, dtype)


def _largest_layer(folder: Path, dtype: str) -> int:
    """Bytes of the largest layer that may be quantized: one at a time is turned back into numbers."""
    largest: int = max(weight.numel() for weight in _quantizable(shapeless(read_model_config(folder), dtype)))
    return BYTES[dtype] * largest


def _in_parts(folder: Path, dtype: str, whole: int, shards: int) -> int:
    """Bytes of the frozen weights in a process that keeps a part of them.

    Its share, what lies outside of layers, and the larger of two moments: the layer at work and the next one, which is
    on its way; or what lies outside a second time, as it came over the wire, and the first layer.
    """
    base = shapeless(read_model_config(folder), dtype)
    layers = [sum(weight.numel() * weight.element_size() for weight in layer.parameters()) for layer in layers_of(base)]
    outside = whole - sum(layers)
    return whole // shards + outside + max(layers) + max(outside, *layers)


def _quantizable(model: Any) -> list[Any]:  # noqa: ANN401  torch modules are untyped here
    """The weights that bitsandbytes takes: of linear layers, but not of the head."""
    import torch

    head = model.get_output_embeddings()
    return [part.weight for part in model.modules() if isinstance(part, torch.nn.Linear) and part is not head]


def _activations(folder: Path, lora: LoraConfig, dtype: str, shape: TrainingShape) -> int:
    counted = _count_training(folder, lora, dtype, replace(shape, compact=True))
    held = counted if shape.compact else round(counted * heap_holes(lora.lora_dropout))
    if shape.quantization == "none":
        return held
    return held + _largest_layer(folder, dtype)


@lru_cache(maxsize=256)
def _count_training(folder: Path, lora: LoraConfig, dtype: str, shape: TrainingShape) -> int:
    config = read_model_config(folder)
    return _over_depth(config, lambda shallow: _trace_training(shallow, lora, dtype, shape))


def _trace_training(config: "PretrainedConfig", lora: LoraConfig, dtype: str, shape: TrainingShape) -> int:
    import torch

    model = shapeless(config, dtype, lora)
    model.train()
    if shape.gradient_checkpointing:
        with warnings.catch_warnings():  # version 5 of transformers renames it on the way
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    if shape.quantization == "none":
        fuse_adapters(model)
    allocations = Allocations()
    if shape.packed:
        attend_within_examples(model)
    with faked(model), heads_repeated(shape.heads_repeated):
        allocations.disregard(model)
        inputs: dict[str, Any] = {
            "input_ids": torch.zeros(shape.rows, shape.width, dtype=torch.long),
            "position_ids": torch.arange(shape.width).repeat(shape.rows, 1),
        }
        if shape.packed:  # into how many examples makes no difference, but for the small mask of a window
            inputs["example_lengths"] = (shape.width // 2, shape.width - shape.width // 2)
        some = torch.zeros(min(shape.trained_tokens, shape.rows * shape.width), dtype=torch.long)
        computed = getattr(torch, dtype)
        with allocations.watching():
            with torch.autocast("cpu", dtype=computed, enabled=computed != torch.float32):
                loss = loss_at(model, inputs, some, some)
            loss.backward()  # type: ignore[no-untyped-call]
    return allocations.peak_bytes


@lru_cache
def _answering(folder: Path, dtype: str, shape: AnsweringShape) -> tuple[int, int]:
    """Bytes of the full cache, and of what reading the prompts takes beside the cache of the prompts."""
    config = read_model_config(folder)

    def read(part: Literal["cache", "peak"]) -> Callable[["PretrainedConfig"], int]:
        return lambda shallow: _trace_answering(shallow, dtype, shape)[part]

    prompts = _over_depth(config, read("cache"))
    peak = _over_depth(config, read("peak"))
    full = prompts * (shape.prompt_tokens + shape.new_tokens) // shape.prompt_tokens
    growing = full // _layers(config)
    return full + growing, max(0, peak - full - growing)


def _trace_answering(config: "PretrainedConfig", dtype: str, shape: AnsweringShape) -> dict[str, int]:
    import torch

    model = shapeless(config, dtype)
    model.eval()
    allocations = Allocations()
    with faked(model), torch.inference_mode():
        allocations.disregard(model)
        with allocations.watching():
            batch = Batch(model, [[0] * shape.prompt_tokens] * shape.rows)
            logits = batch.start()
            del logits
    return {"cache": allocations.now_bytes, "peak": allocations.peak_bytes}


def _over_depth(config: "PretrainedConfig", trace: Callable[["PretrainedConfig"], int]) -> int:
    """Trace two shallow models and go on in a straight line: every further round of layers takes the same again."""
    layers, period = _layers(config), _period(config)
    if layers <= 2 * period:
        return trace(config)
    one, two = (trace(_shallow(config, count)) for count in (period, 2 * period))
    return two + (two - one) * (layers - 2 * period) // period


def _layers(config: "PretrainedConfig") -> int:
    return int(config.get_text_config().num_hidden_layers)


def _period(config: "PretrainedConfig") -> int:
    """After how many layers the pattern of kinds, such as sliding and full attention, begins again."""
    kinds = getattr(config.get_text_config(), "layer_types", None) or ["full"]
    return next(
        period
        for period in range(1, len(kinds) + 1)
        if all(kind == kinds[place % period] for place, kind in enumerate(kinds))
    )


def _shallow(config: "PretrainedConfig", layers: int) -> "PretrainedConfig":
    fewer = copy.deepcopy(config)
    text = fewer.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    return fewer
