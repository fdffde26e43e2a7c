"""Small stand-ins for tests, ours and those of code that builds on Vademecum: pairs and checkpoints made on the spot.

Nothing here comes from a network, and the same call writes the same bytes. The checkpoints have random weights: they
run, train and save like real ones in milliseconds, and what they answer means nothing.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vademecum.models.progress import no_progress_bars
from vademecum.records import QAPair

if TYPE_CHECKING:
    from tokenizers import Tokenizer

QUESTION_TYPES = ("information", "symptoms", "treatment", "prevention")

_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_ZEPHYR = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
_STARTS = (
    "Bel",
    "Cor",
    "Dul",
    "Fen",
    "Gal",
    "Har",
    "Jor",
    "Kel",
    "Lum",
    "Mar",
    "Nev",
    "Ros",
    "Sal",
    "Tor",
    "Vel",
    "Wen",
)
_ENDS = ("an fever", "en syndrome", "ic anemia", "in rash", "or palsy", "is dystrophy", "al cough", "ar ataxia")
_PLACES = ("the skin", "the lungs", "the joints", "the kidneys", "the nerves", "the stomach", "the eyes", "the heart")
_SIGNS = (
    "a fever",
    "tiredness",
    "a dry cough",
    "pain at night",
    "weak legs",
    "a red rash",
    "blurred sight",
    "swelling",
)
_CARES = ("rest", "plenty of water", "a short course of tablets", "gentle exercise", "an ointment", "a salt-free diet")


def tiny_pairs(n: int = 60) -> list[QAPair]:
    """`n` made-up pairs: three to a focus, four question types and two sources in turn, all answers distinct."""
    return [_tiny_pair(index) for index in range(n)]


def build_tiny_checkpoint(folder: Path, texts: Iterable[str] = ()) -> Path:
    """Write a Llama of 2 layers and width 16 with a byte-level BPE tokenizer and a ChatML template; return `folder`.

    It behaves like SmolLM2-Instruct: `<|im_start|>` is the BOS and stands in the template alone, `<|im_end|>` is the
    EOS, the embeddings are tied. Its pad token `<|endoftext|>` is apart from the EOS. `texts` are added to what the
    tokenizer is trained on.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    folder.mkdir(parents=True, exist_ok=True)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=448,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in specials],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*_fixture_texts(), *texts], trainer)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "chat_template": _CHATML,
    }
    _write_tokenizer(folder, tokenizer, settings)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    _write_llama(folder, {"vocab_size": tokenizer.get_vocab_size(), "tie_word_embeddings": True, **ids}, ids)
    return folder


def build_tinyllama_lookalike(folder: Path) -> Path:
    """Write a checkpoint that differs from TinyLlama-1.1B-Chat-v1.0 only in its size and its weights; return `folder`.

    The same configuration class and the same special tokens (`<unk>`, `<s>`, `</s>`, padding with `</s>`); the
    tokenizer puts a BOS before every text and the chat template does not; the template's role marks are plain text.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
    from tokenizers.models import BPE

    folder.mkdir(parents=True, exist_ok=True)
    specials = ["<unk>", "<s>", "</s>"]
    vocabulary, merges = _sentencepiece_like_bpe(specials)
    tokenizer = Tokenizer(
        BPE(vocab=vocabulary, merges=merges, unk_token=specials[0], fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "</s>",
        "padding_side": "right",
        "legacy": False,
        "sp_model_kwargs": {},
        "model_max_length": 2048,
        "chat_template": _ZEPHYR,
    }
    _write_tokenizer(folder, tokenizer, settings)
    ids = {"bos_token_id": 1, "eos_token_id": 2}
    generation = {**ids, "pad_token_id": 0, "max_length": 2048}  # as published, although the tokenizer pads with </s>
    _write_llama(folder, {"vocab_size": len(vocabulary), "tie_word_embeddings": False, **ids}, generation)
    return folder


def _tiny_pair(index: int) -> QAPair:
    number = index // 3
    name = _STARTS[number % len(_STARTS)] + _ENDS[number // len(_STARTS) % len(_ENDS)]
    turn = number // (len(_STARTS) * len(_ENDS))
    focus = f"{name} type {turn + 1}" if turn else name
    qtype = QUESTION_TYPES[(index % 3 + number) % len(QUESTION_TYPES)]
    place, sign, other = (_PLACES[number % 8], _SIGNS[number % 7], _SIGNS[(number * 3 + 4) % 8])
    care = _CARES[number % 6]
    question, answer = {
        "information": (f"What is {focus}?", f"{focus} is an illness of {place}. It often begins with {sign}."),
        "symptoms": (
            f"What are the symptoms of {focus}?",
            f"People with {focus} have {sign}. Later {other} may follow, and {place} can hurt. See a doctor soon.",
        ),
        "treatment": (f"How is {focus} treated?", f"The treatment of {focus} is {care}."),
        "prevention": (
            f"How can {focus} be prevented?",
            f"Nothing surely prevents {focus}. Clean hands help, and so does {care}. Protect {place} from the cold.",
        ),
    }[qtype]
    document = f"tiny/{number:05d}"
    return QAPair(
        id=f"{document}#{index % 3}",
        question=question,
        answer=answer,
        focus=focus,
        qtype=qtype,
        source=("North Clinic", "South Clinic")[number % 2],
        url=f"https://example.org/{document}",
        document=document,
        cuis=(f"C9{number:06d}",),
        semantic_group="Disorders",
    )


def _fixture_texts() -> list[str]:
    return [text for pair in tiny_pairs(90) for text in (pair.question, pair.answer)]


def _sentencepiece_like_bpe(specials: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges in Llama's order: the specials, the 256 bytes, then what the fixtures teach."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    learner = Tokenizer(BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(_fixture_texts(), BpeTrainer(vocab_size=160, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    pieces = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
    names = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    return {name: number for number, name in enumerate(names)}, [(left, right) for left, right in learned["merges"]]


def _write_tokenizer(folder: Path, tokenizer: "Tokenizer", settings: dict[str, Any]) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    text = json.dumps(settings, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _write_llama(folder: Path, settings: dict[str, Any], generation: dict[str, int]) -> None:
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        initializer_range=0.2,  # the usual 0.02 would leave the logits of so narrow a model all but equal
        **settings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**generation)
    with no_progress_bars():
        model.save_pretrained(folder)
