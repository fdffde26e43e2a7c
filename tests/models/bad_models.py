"""The table of bad and odd models: what is done to a sound one, and what must come of it before any training.

The sound one is a Llama of 2 layers and width 16 with 448 tokens.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Spoil = Callable[[Path], None]


@dataclass(frozen=True)
class Works:
    """The model is used; the token that rows are padded with."""

    pads_with: str = "<|endoftext|>"


@dataclass(frozen=True)
class Refused:
    """A SourceError, or an InputError from the prompts, whose message holds these parts."""

    found: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    """A row of the table."""

    name: str
    spoil: Spoil
    must: Works | Refused


def write(name: str, content: bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return spoil


def change(name: str, **values: Any) -> Spoil:
    """Set values in a JSON file; `...` removes one."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        content.update({key: value for key, value in values.items() if value is not ...})
        for key in [key for key, value in values.items() if value is ...]:
            content.pop(key, None)
        (folder / name).write_text(json.dumps(content))

    return spoil


def remove(*names: str) -> Spoil:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


def weights(edit: Callable[[dict[str, Any]], None]) -> Spoil:
    """Edit the tensors by name."""

    def spoil(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pickle_weights(folder: Path) -> None:
    """What a malicious model would bring: weights that say something when they are loaded."""
    import pickle

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weights": [0.0]}))


def put(name: str, value: float) -> Spoil:
    def edit(tensors: dict[str, Any]) -> None:
        tensors[name][..., 0] = value

    return weights(edit)


def shrink_embedding(folder: Path) -> None:
    def edit(tensors: dict[str, Any]) -> None:
        tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:400].clone()

    weights(edit)(folder)
    change("config.json", vocab_size=400)(folder)


def grow_embedding(folder: Path) -> None:
    """As many models do, to a round number of rows."""

    def edit(tensors: dict[str, Any]) -> None:
        import torch

        embedding = tensors["model.embed_tokens.weight"]
        tensors["model.embed_tokens.weight"] = torch.cat([embedding, embedding[:64]])

    weights(edit)(folder)
    change("config.json", vocab_size=512)(folder)


def saved_from(kind: str, **settings: Any) -> Spoil:
    """Another architecture in its place, with random weights; the tokenizer stays."""

    def spoil(folder: Path) -> None:
        import torch
        import transformers

        from vademecum.models.progress import no_load_report

        remove("config.json", "model.safetensors")(folder)
        config = getattr(transformers, f"{kind.partition('For')[0].removesuffix('Model')}Config")
        with torch.random.fork_rng(devices=[]), no_load_report():
            torch.manual_seed(0)
            getattr(transformers, kind)(config(vocab_size=448, **settings)).save_pretrained(folder)

    return spoil


def foreign_code(name: str, **values: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        change(name, **values)(folder)
        (folder / "code.py").write_text("raise SystemExit('this ran')")

    return spoil


def index_of_another(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


NORM = "model.norm.weight"
BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
WITHOUT = {"pad_token": ..., "unk_token": ...}

TABLE = [
    Model("a sound model", lambda folder: None, Works()),
    # Files
    Model("no directory", shutil.rmtree, Refused(("no such directory",))),
    Model("no config.json", remove("config.json"), Refused(("no config.json",))),
    Model("no weights", remove("model.safetensors"), Refused(("found no weights",))),
    Model("no tokenizer", remove("tokenizer.json"), Refused(("none of tokenizer.json",))),
    Model("truncated weights", cut_weights, Refused(("damaged or cut short", "model.safetensors"))),
    Model("empty weights", write("model.safetensors", b""), Refused(("damaged or cut short",))),
    Model("a web page for weights", write("model.safetensors", b"<html>" * 99), Refused(("damaged or cut short",))),
    Model("a missing shard", index_of_another, Refused(("'model-00002.safetensors' is missing",))),
    Model("a broken index", write("model.safetensors.index.json", b"{"), Refused(("index.json", "cannot be read"))),
    Model("pickled weights", pickle_weights, Refused(("pickled weights ('pytorch_model.bin')", "run code"))),
    # config.json
    Model("broken config.json", write("config.json", b"{"), Refused(("config.json in", "cannot be used"))),
    Model("config.json in UTF-16", write("config.json", b"\xff\xfe{\0}\0"), Refused(("config.json in",))),
    Model("a list in config.json", write("config.json", b"[]"), Refused(("config.json in", "list"))),
    Model("an empty config.json", write("config.json", b"{}"), Refused(("config.json in", "model_type"))),
    Model("an unknown model_type", change("config.json", model_type="nosuch"), Refused(("config.json in", "nosuch"))),
    Model("text for a size", change("config.json", hidden_size="wide"), Refused(("config.json in", "hidden_size"))),
    Model("heads that do not divide", change("config.json", num_attention_heads=3), Refused(("heads (3)",))),
    Model(
        "another width", change("config.json", hidden_size=32), Refused(("another shape", "[448, 16], not [448, 32]"))
    ),
    Model("another MLP", change("config.json", intermediate_size=48), Refused(("6 weights", "another shape"))),
    Model("another vocabulary", change("config.json", vocab_size=500), Refused(("[448, 16], not [500, 16]",))),
    Model("a layer too many", change("config.json", num_hidden_layers=3), Refused(("lack 9 tensors", "layers.2."))),
    Model("a layer too few", change("config.json", num_hidden_layers=1), Refused(("9 tensors more", "layers.1."))),
    Model(
        "code for the model",
        foreign_code("config.json", model_type="foreign", auto_map={"AutoConfig": "code.C"}),
        Refused(("config.json in", "custom code")),
    ),
    # What is in the weights
    Model("NaN in the weights", put(NORM, float("nan")), Refused((NORM, "NaN or infinity"))),
    Model("infinity in the weights", put(NORM, float("-inf")), Refused((NORM, "NaN or infinity"))),
    Model("a tensor of something else", weights(lambda tensors: tensors.update(extra=tensors[NORM] * 2)), Works()),
    Model("an encoder", saved_from("BertForMaskedLM", **BERT), Refused(("BertLMHeadModel", "it is an encoder"))),
    Model("an encoder without a head", saved_from("BertModel", **BERT), Refused(("lack",))),
    Model("an encoder and a decoder", saved_from("T5ForConditionalGeneration", **T5), Refused(("T5Config",))),
    # The tokenizer
    Model("a broken tokenizer", write("tokenizer.json", b"{"), Refused(("tokenizer in", "cannot be loaded"))),
    Model("a list for the tokenizer", write("tokenizer_config.json", b"[]"), Refused(("tokenizer in",))),
    Model(
        "code for the tokenizer",
        foreign_code("tokenizer_config.json", tokenizer_class="F", auto_map={"AutoTokenizer": ["code.T", None]}),
        Refused(("tokenizer in", "custom code")),
    ),
    Model("no template", change("tokenizer_config.json", chat_template=...), Works()),
    Model(
        "a template with a mistake", change("tokenizer_config.json", chat_template="{% for %}"), Refused(("template",))
    ),
    Model("no pad token", change("tokenizer_config.json", pad_token=...), Works()),
    Model("no pad, no unknown", change("tokenizer_config.json", **WITHOUT), Works(pads_with="<|im_end|>")),
    Model("pad = EOS", change("tokenizer_config.json", pad_token="<|im_end|>"), Works(pads_with="<|im_end|>")),
    Model(
        "no pad, no unknown, no end",
        change("tokenizer_config.json", eos_token=..., **WITHOUT),
        Refused(("no pad token, no unknown token and no end token",)),
    ),
    Model("more tokens than embeddings", shrink_embedding, Refused(("ids up to 447", "400 rows"))),
    Model("more embeddings than tokens", grow_embedding, Works()),
]
