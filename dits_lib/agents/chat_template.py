"""What a tokenizer's chat template does with messages: where a turn ends, what marks one, what it
leaves out.

Everything here is found by rendering a probe chat, since templates are programs: what one does
cannot be read from its text.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache

from ..tasks.thoughts import CLOSES, OPENS, without_thoughts

DAY = datetime(2024, 7, 26)
"""The day that templates are told when they write today's date (Llama's own when it has none): a
prompt must not differ by the day on which it is rendered."""

Chat = list[dict[str, str]]

_TAGS = (OPENS, CLOSES)

_PROBE = ("xqsysq", "xqaskq", "xqsayq", "xqendq")
"""Words that no template holds: what stands between them is the template's own."""

_MARKER = re.compile(
    r"<<?/?[|A-Za-z_][^<>\s]*>>?"  # <|assistant|>, <start_of_turn>, <<SYS>>
    r"|\[/?[A-Z_]+\]"  # [INST]
    r"|#{2,} ?[A-Za-z]+:?"  # ### Instruction:
    r"|^[A-Z]{2,}:",  # USER:
    re.MULTILINE,
)
"""Forms of marks that templates write as plain text."""


class ChatTemplateError(ValueError):
    """A chat template that cannot be used, or not with these messages; in one line."""


def render(tokenizer, chat: Chat, reply_follows: bool) -> str:
    """A chat as the model reads it; with `reply_follows` up to where its reply begins.

    A template that takes no system message, or none before the agent's own first message, is given
    it as the user's, joined to the first user message if that follows.

    Raises:
        ChatTemplateError: for a template that refuses the chat, or leaves a message out.
    """
    if chat[0]["role"] == "system" and not knows_system(tokenizer):
        chat = _told_by_user(chat)
    try:
        text = _applied(tokenizer, chat, reply_follows)
    except ChatTemplateError:
        if chat[0]["role"] != "system":
            raise _refusal(tokenizer, chat) from None
        try:
            text = _applied(tokenizer, _told_by_user(chat), reply_follows)
        except ChatTemplateError:
            raise _refusal(tokenizer, chat) from None
    left_out = _left_out(text, chat)
    if left_out:
        raise ChatTemplateError(
            f"{tokenizer.name_or_path}: its chat template leaves out the {left_out['role']} "
            f"message {left_out['content'][:60]!r}; allowed: one that writes every message as it is"
        )
    return text


def check_chat_template(tokenizer) -> None:
    """Render a probe chat.

    Raises:
        ChatTemplateError: for a template that is missing, empty or broken, that takes no plain
            text, or that marks the end of a turn by nothing.
    """
    template = tokenizer.chat_template
    if template is None:
        raise ChatTemplateError(
            "the tokenizer has no chat template, which renders the agents' prompts"
        )
    if isinstance(template, dict) and "default" not in template:
        raise ChatTemplateError(
            f"its tokenizer has chat templates named {', '.join(template)} alone; allowed: one "
            "template, or one of the name default among them"
        )
    asked = [{"role": "user", "content": _PROBE[1]}]
    try:
        text = _applied(tokenizer, asked, True)
    except ChatTemplateError as error:
        raise ChatTemplateError(f"its chat template fails on a user's message: {error}") from None
    if _PROBE[1] not in text:
        raise ChatTemplateError(
            "its chat template does not write a user's message of plain text (is it empty, or made "
            "for lists of parts?)"
        )
    end_of_turn(tokenizer)
    roles = ("system", "user", "assistant", "user")
    chat = [{"role": r, "content": word} for r, word in zip(roles, _PROBE, strict=True)]
    render(tokenizer, chat, True)  # an agent's second turn


@lru_cache(maxsize=16)
def end_of_turn(tokenizer) -> int:
    """The id of the token that closes an assistant's turn: that which the template writes after it,
    or the tokenizer's end of sequence where the template writes nothing there.

    Raises:
        ChatTemplateError: when it is no special token, so that a sampled one could not be told from
            text.
    """
    chat = [{"role": "user", "content": _PROBE[1]}, {"role": "assistant", "content": _PROBE[2]}]
    try:
        after = _applied(tokenizer, chat, False).partition(_PROBE[2])[2].strip()
    except ChatTemplateError:
        after = ""
    if after:
        special = sorted(_special_tokens(tokenizer), key=len, reverse=True)
        found = next((token for token in special if token and after.startswith(token)), None)
        if found is None:
            raise ChatTemplateError(
                f"its chat template closes a turn by the text {after[:40]!r}, which is no special "
                "token of the tokenizer; allowed: a special token, by which a reply can end"
            )
        return tokenizer.convert_tokens_to_ids(found)
    if tokenizer.eos_token_id is None:
        raise ChatTemplateError(
            "neither its chat template nor its tokenizer has a token that ends a turn"
        )
    return tokenizer.eos_token_id


def stop_ids(tokenizer, generation_config=None) -> list[int]:
    """Ids of all tokens at which a reply ends: the template's, the tokenizer's, and those of the
    model's generation config."""
    listed = getattr(generation_config, "eos_token_id", None)
    listed = listed if isinstance(listed, (list, tuple)) else [listed]
    return sorted({end_of_turn(tokenizer), tokenizer.eos_token_id, *listed} - {None})


@lru_cache(maxsize=16)
def knows_system(tokenizer) -> bool:
    """Whether the template writes a system message: some refuse it (Gemma), some drop it."""
    chat = [{"role": "system", "content": _PROBE[0]}, {"role": "user", "content": _PROBE[1]}]
    try:
        return _PROBE[0] in _applied(tokenizer, chat, True)
    except ChatTemplateError:
        return False


@lru_cache(maxsize=16)
def control_text(tokenizer) -> re.Pattern:
    """Matches what opens or closes messages: the tokenizer's special tokens, and the marks that the
    template writes as plain text. What an agent reads (a page, another's words) must not hold
    them."""
    marks = _special_tokens(tokenizer) | _plain_marks(tokenizer)
    return re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))) or r"(?!)")


@lru_cache(maxsize=16)
def opens_thought(tokenizer) -> bool:
    """Whether the template begins every reply inside a thought (`<think>`)."""
    chat = [{"role": "user", "content": _PROBE[1]}]
    begun = _applied(tokenizer, chat, True).partition(_PROBE[1])[2]
    return begun.rfind(OPENS) > begun.rfind(CLOSES)


@lru_cache(maxsize=16)
def lead_in(tokenizer) -> str:
    """What the template writes before an assistant's message that stands alone, up to where its
    reply begins; at least one token.

    Where a template takes no such chat, or writes nothing there, it is what asks for a reply to a
    user's message, behind the token by which a text begins; else the token that ends a turn.
    """
    user = [{"role": "user", "content": _PROBE[1]}]
    before, _, asks = _applied(tokenizer, user, True).partition(_PROBE[1])
    try:
        alone = _applied(tokenizer, [{"role": "assistant", "content": _PROBE[2]}], False)
    except ChatTemplateError:
        alone = ""
    begun, found, _ = alone.partition(_PROBE[2])
    if found and begun.strip():
        return begun + (asks[asks.rfind(OPENS) :] if opens_thought(tokenizer) else "")
    closed = _applied(tokenizer, user, False).partition(_PROBE[1])[2]
    start = tokenizer.bos_token or ""
    begun = (start if before.startswith(start) else "") + asks.removeprefix(closed)
    return begun if begun.strip() else tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer))


def spoken(tokenizer, ids: tuple[int, ...], text: str) -> str:
    """What a reply says aloud: its text without what stands in `<think>`; nothing for a thought
    that never ends.

    Args:
        ids: of the reply's tokens.
        text: their text, without special tokens.
    """
    if not _thinks(tokenizer):
        return text
    if any(tag in tokenizer.all_special_tokens for tag in _TAGS):
        text = _with_tags(tokenizer, ids)
    return without_thoughts((OPENS if opens_thought(tokenizer) else "") + text).strip()


def _with_tags(tokenizer, ids: tuple[int, ...]) -> str:
    """The text of these tokens with the tags of thoughts, which are special tokens here: a text
    without special tokens does not show where a thought ends."""
    tags = {tokenizer.convert_tokens_to_ids(tag): tag for tag in _TAGS}
    parts, start = [], 0
    for place, token in enumerate((*ids, None)):
        if token is None or token in tags:
            parts.append(tokenizer.decode(list(ids[start:place]), skip_special_tokens=True))
            parts.append(tags.get(token, ""))
            start = place + 1
    return "".join(parts)


@lru_cache(maxsize=16)
def _thinks(tokenizer) -> bool:
    """Whether a model of this tokenizer may write thoughts at all: its template or its vocabulary
    knows the tag. In others `<think>` is a word like any other."""
    known = str(tokenizer.chat_template), tokenizer.get_added_vocab()
    return any(tag in place for tag in _TAGS for place in known)


def _applied(tokenizer, chat: Chat, reply_follows: bool) -> str:
    try:
        return tokenizer.apply_chat_template(
            chat,
            tokenize=False,
            add_generation_prompt=reply_follows,
            strftime_now=DAY.strftime,
        )
    except Exception as error:  # a template is a program, and may fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ChatTemplateError(reason[:200]) from None


def _told_by_user(chat: Chat) -> Chat:
    """The chat with its system message as the user's."""
    first, *rest = chat
    if rest and rest[0]["role"] == "user":
        joined = f"{first['content']}\n\n{rest[0]['content']}"
        return [{"role": "user", "content": joined}, *rest[1:]]
    return [{"role": "user", "content": first["content"]}, *rest]


def _left_out(text: str, chat: Chat) -> dict[str, str] | None:
    """The first message that the text does not hold. What was said stands in its order; the system
    message may stand anywhere (before the last user message in some Mistral models)."""
    start = 0
    for message in chat:
        content = message["content"].strip()
        if message["role"] == "system":
            if content not in text:
                return message
            continue
        place = text.find(content, start)
        if place < 0:
            return message
        start = place + len(content)
    return None


def _refusal(tokenizer, chat: Chat) -> ChatTemplateError:
    roles = ", ".join(message["role"] for message in chat)
    return ChatTemplateError(
        f"{tokenizer.name_or_path}: its chat template refuses messages of the roles {roles}; most "
        "want the user's and the assistant's in turn, the user's first"
    )


def _special_tokens(tokenizer) -> set[str]:
    added = tokenizer.added_tokens_decoder.values()
    return {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)


def _plain_marks(tokenizer) -> set[str]:
    chat = [
        {"role": role, "content": word}
        for role, word in zip(("system", "user", "assistant", "user"), _PROBE, strict=True)
    ]
    chat = chat if knows_system(tokenizer) else chat[1:]
    try:
        text = _applied(tokenizer, chat, True)
    except ChatTemplateError:
        text = _applied(tokenizer, [{"role": "user", "content": _PROBE[1]}], True)
    for token in _special_tokens(tokenizer):
        text = text.replace(token, "\n")
    pieces = re.split("|".join(_PROBE), text)
    return {found for piece in pieces for found in _MARKER.findall(piece)}
