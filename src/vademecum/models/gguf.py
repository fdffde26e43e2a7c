"""GGUF files, as llama.cpp reads them, turned into ordinary checkpoint folders."""

import json
import mmap
import shutil
import struct
import tempfile
from pathlib import Path

from vademecum.errors import SourceError
from vademecum.files import publish_folder, write_json
from vademecum.models.progress import no_progress_bars


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's weights, dequantized to float32, and its tokenizer as an ordinary checkpoint folder.

    The folder appears whole or not at all.

    Raises:
        SourceError: the file is no GGUF file, or of an architecture that transformers does not read.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    options = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        with no_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                quantization_config=GgufConfig(dequantize=True),  # without it the model cannot be saved
                dtype=torch.float32,
                **options,
            )
            model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        _repair_tokenizer(temporary, gguf)
        temporary.chmod(0o755)
        publish_folder(temporary, folder)
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(
            f"The GGUF file {str(gguf)!r} cannot be converted: {error}",
            hint="Use a GGUF file of a Llama-like decoder, or set model.name to a directory with safetensors.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _repair_tokenizer(folder: Path, gguf: Path) -> None:
    """Put back what the conversion of a GGUF tokenizer loses."""
    settings_file = folder / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text(encoding="utf-8"))
    for key in ("is_local", "local_files_only"):  # how it was loaded here, which is nobody else's business
        settings.pop(key, None)
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # a name that older versions of transformers know too
    write_json(settings_file, settings)
    if _text_field(gguf, b"tokenizer.ggml.pre") == b"smollm":
        tokenizer_file = folder / "tokenizer.json"
        content = json.loads(tokenizer_file.read_text(encoding="utf-8"))
        digits = {"type": "Digits", "individual_digits": True}  # SmolLM2 was trained with every digit apart
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, content["pre_tokenizer"]]}
        write_json(tokenizer_file, content)


def _text_field(gguf: Path, key: bytes) -> bytes:
    """Read one text from a GGUF header; empty where it is absent.

    The `gguf` package would parse every token of the vocabulary first, for seconds. A key is followed by the value's
    type (uint32, 8 for text), its length (uint64) and its bytes, little-endian; keys carry their own length in front.
    Source: the GGUF specification in ggml's documentation.
    """
    text_type = 8
    with gguf.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        marker = struct.pack("<Q", len(key)) + key + struct.pack("<I", text_type)
        start = content.find(marker)
        if start < 0:
            return b""
        start += len(marker)
        (length,) = struct.unpack_from("<Q", content, start)
        return content[start + 8 : start + 8 + length]
