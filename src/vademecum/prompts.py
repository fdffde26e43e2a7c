"""The only prompt text of the project: a question becomes chat messages, and messages become token ids.

What stands in a corpus is data, never control. The model's own chat template is rendered with a mark in place of each
content; the special tokens that the template itself wrote become their ids, and the text between two of them, with the
real content in it, is tokenized as plain text. So `</s>` or `<|im_end|>` in a question is a few characters and no more,
and a content without such strings gives exactly what the tokenizer's own `apply_chat_template` gives.

    <|im_start|>  "user\\nWhat is gout?"  <|im_end|>  "\\n"  <|im_start|>  "assistant\\n"
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from vademecum.config.sections import PromptConfig
from vademecum.errors import InputError
from vademecum.records import QAPair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]

# For tokenizers without a chat template. An answer begins on its own line, so that it is the same tokens whether it
# stands in a shown example or follows the prompt.
_PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'Question: ' + message['content'] + '\nAnswer:\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + (eos_token or '') + '\n\n' }}"
    "{% else %}{{ message['content'] + '\n\n' }}{% endif %}"
    "{% endfor %}"
)
# Marks are made of private-use characters: no template writes them, and none takes them for white space.
_MARK = "\ue000{}\ue001"
_MARK_PATTERN = "\ue000[0-9]+\ue001"
# Texts that SentencePiece vocabularies hold as a token of their own, so that nothing merges with them.
_ANCHORS = ("\n", "\t", ":")


class _Special(NamedTuple):
    """A special token: its id, and whether it swallows the white space on its left and right."""

    id: int
    lstrip: bool
    rstrip: bool


class _Run(NamedTuple):
    """Plain text between two special tokens: template text, and message indices where content goes."""

    parts: tuple[str | int, ...]
    before: str
    """The special token in front; empty at the very start."""


_Frame = tuple[int | _Run, ...]


def build_messages(question: str, config: PromptConfig, examples: Sequence[QAPair] = ()) -> list[Message]:
    """The chat that asks `question`: the system text, if any; each example as a turn and its answer; the question.

    Examples are put in the same question form as the question itself.
    """
    messages = [{"role": "system", "content": config.system.strip()}] if config.system.strip() else []
    for pair in examples:
        messages.append({"role": "user", "content": _ask(pair.question, config)})
        messages.append({"role": "assistant", "content": pair.answer.strip()})
    return [*messages, {"role": "user", "content": _ask(question, config)}]


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> list[int]:
    """Token ids of a chat, up to and with the template's opening of the answer.

    Contents are stripped. A default system text that the template adds by itself is kept; where a template has no
    place for a system message, its text stands at the head of the first question. There is one BOS in front where the
    template writes it or where the tokenizer puts one before any text, otherwise none.

    Raises:
        InputError: the template cannot render these turns.
    """
    frame = _frame(tokenizer, _template(tokenizer), tuple(message["role"] for message in messages), True)
    ids: list[int] = []
    for piece in frame:
        if isinstance(piece, int):
            ids.append(piece)
        else:
            text = "".join(part if isinstance(part, str) else messages[part]["content"].strip() for part in piece.parts)
            ids.extend(_encode_after(tokenizer, text, piece.before))
    if _adds_bos(tokenizer) and ids[:1] != [tokenizer.bos_token_id]:
        ids.insert(0, tokenizer.bos_token_id)
    return ids


def encode_answer(tokenizer: "PreTrainedTokenizerBase", answer: str) -> list[int]:
    """Token ids of an answer as it follows a prompt, stripped, without an end token; never a special token.

    White space that the template puts between its opening of the answer and the answer (Llama 2 writes one space)
    belongs to these ids: it is what the model would have to write first.
    """
    before, lead = _answer_place(tokenizer, _template(tokenizer))
    return list(_encode_after(tokenizer, lead + answer.strip(), before))


def decode_answer(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    """The text of an answer's ids, special tokens left out, stripped."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.strip()


def end_token_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that ends an answer: the first special token that the template writes after one, else the EOS.

    Raises:
        InputError: the template writes none and the tokenizer has no EOS.
    """
    frame = _frame(tokenizer, _template(tokenizer), ("user", "assistant"), False)
    answer = max(index for index, piece in enumerate(frame) if isinstance(piece, _Run) and 1 in piece.parts)
    following = [piece for piece in frame[answer:] if isinstance(piece, int)]
    end: int | None = following[0] if following else tokenizer.eos_token_id
    if end is None:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has no token that ends an answer",
            hint="set `eos_token` in the model's tokenizer_config.json",
        )
    return end


def bos_count(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> int:
    """How many BOS tokens stand in front. Later ones do not count: ChatML models open every turn with their BOS."""
    count = 0
    while count < len(ids) and ids[count] == tokenizer.bos_token_id:
        count += 1
    return count


def _ask(question: str, config: PromptConfig) -> str:
    form = f"{config.instruction.strip()}\n\n{config.question}" if config.instruction.strip() else config.question
    return form.replace("{question}", question.strip())


def _template(tokenizer: "PreTrainedTokenizerBase") -> str:
    if tokenizer.chat_template is None:
        return _PLAIN_TEMPLATE
    template: str = tokenizer.get_chat_template()
    return template


@lru_cache(maxsize=64)
def _frame(tokenizer: "PreTrainedTokenizerBase", template: str, roles: tuple[str, ...], opened: bool) -> _Frame:
    """The rendered template, cut at contents and special tokens. Pairs share it: it depends on the roles alone."""
    specials = _specials(tokenizer)
    pieces: list[int | _Run] = []
    parts: list[str | int] = []
    before = ""
    for text in re.split(f"({_MARK_PATTERN}|{_pattern(specials)})", _render(tokenizer, template, roles, opened)):
        if re.fullmatch(_MARK_PATTERN, text):
            parts.append(int(text[1:-1]))
        elif text in specials:
            _strip_edge(parts, -1, specials[text].lstrip)
            pieces += [_Run(tuple(parts), before), specials[text].id]
            parts, before = [], text
        elif text:
            parts.append(text)
            _strip_edge(parts, 0, bool(before) and specials[before].rstrip)
    pieces.append(_Run(tuple(parts), before))
    return tuple(piece for piece in pieces if isinstance(piece, int) or any(part != "" for part in piece.parts))


def _strip_edge(parts: list[str | int], edge: int, swallowed: bool) -> None:
    """Take white space off the first (0) or last (-1) part, if it is template text beside a token that swallows it."""
    if swallowed and parts:
        part = parts[edge]
        if isinstance(part, str):
            parts[edge] = part.lstrip() if edge == 0 else part.rstrip()


def _render(tokenizer: "PreTrainedTokenizerBase", template: str, roles: tuple[str, ...], opened: bool) -> str:
    """The template's text with a mark for each content."""
    from jinja2 import TemplateError

    marks = [_MARK.format(index) for index in range(len(roles))]
    attempts = [list(zip(roles, marks, strict=True))]
    if roles[0] == "system" and len(roles) > 1:
        attempts.append([(roles[1], f"{marks[0]}\n\n{marks[1]}"), *attempts[0][2:]])
    found = "it leaves a message out"
    for turns in attempts:
        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            text: str = tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=opened
            )
        except TemplateError as error:
            found = f"it says {str(error)!r}"
            continue
        if all(mark in text for mark in marks):
            return text
    raise InputError(
        f"the chat template of {tokenizer.name_or_path!r} cannot render the turns {list(roles)!r}: {found}",
        hint="choose a model with a chat template for these roles, or leave few-shot out of generate.systems",
    )


@lru_cache(maxsize=8)
def _answer_place(tokenizer: "PreTrainedTokenizerBase", template: str) -> tuple[str, str]:
    """What an answer follows (a special token, or a line end for any text), and the white space that leads it."""
    frame = _frame(tokenizer, template, ("user",), True)
    before = "\n"
    if isinstance(frame[-1], int):
        before = next(text for text, special in _specials(tokenizer).items() if special.id == frame[-1])
    opening = _render(tokenizer, template, ("user",), True)
    answered = _render(tokenizer, template, ("user", "assistant"), False).split(_MARK.format(1))[0]
    lead = answered.removeprefix(opening) if answered.startswith(opening) else ""
    return before, lead if lead.isspace() else ""


@lru_cache(maxsize=512)  # the system text comes back with every pair
def _encode_after(tokenizer: "PreTrainedTokenizerBase", text: str, before: str) -> tuple[int, ...]:
    """Plain text as it is tokenized in the middle of a text, after `before`.

    SentencePiece-style tokenizers put a space before what they take for the beginning of a text. It belongs to the
    first text only: a later one is tokenized behind an anchor, whose tokens are then taken off.
    """
    if _starts_anew(tokenizer, before):
        return _encode_plain(tokenizer, text)
    for anchor in _ANCHORS:
        head = _encode_plain(tokenizer, anchor)
        ids = _encode_plain(tokenizer, anchor + text)
        if ids[: len(head)] == head:
            return ids[len(head) :]
    return _encode_plain(tokenizer, text)


@lru_cache(maxsize=64)
def _starts_anew(tokenizer: "PreTrainedTokenizerBase", before: str) -> bool:
    """Whether a text after `before` is tokenized as it is when it stands alone."""
    joined, first, second = (
        tokenizer(text, add_special_tokens=False).input_ids for text in (before + "x", before, "x")
    )
    return bool(joined == first + second)


def _encode_plain(tokenizer: "PreTrainedTokenizerBase", text: str) -> tuple[int, ...]:
    """Token ids without any special token but the unknown one."""
    ids = _encode_split(tokenizer, text)
    specials = _specials(tokenizer)
    control = {special.id for special in specials.values()} - {tokenizer.unk_token_id}
    if control.isdisjoint(ids):
        return tuple(ids)
    # Unigram vocabularies hold their special tokens as ordinary pieces: such a string is tokenized by its characters.
    ids = []
    for piece in re.split(f"({_pattern(specials)})", text):
        for part in piece if piece in specials else [piece]:
            ids += _encode_split(tokenizer, part)
    return tuple(ids)


def _encode_split(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    # verbose=False: a text longer than the model's context is cut and counted later, not a reason to warn here.
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
    return ids


@lru_cache(maxsize=8)
def _specials(tokenizer: "PreTrainedTokenizerBase") -> dict[str, _Special]:
    """Special tokens by their text; added tokens that the tokenizer itself calls ordinary are not among them."""
    specials = {
        token: _Special(id, lstrip=False, rstrip=False)
        for token, id in zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    }
    for id, added in tokenizer.added_tokens_decoder.items():
        if added.special or added.content in specials:
            specials[added.content] = _Special(id, added.lstrip, added.rstrip)
    return specials


def _pattern(specials: dict[str, _Special]) -> str:
    """A regular expression for any special token, the longest first; one that never matches when there is none."""
    return "|".join(re.escape(text) for text in sorted(specials, key=len, reverse=True)) or "(?!)"


@lru_cache(maxsize=8)
def _adds_bos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the tokenizer puts a BOS before any text."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("x").input_ids[:1] == [bos]
