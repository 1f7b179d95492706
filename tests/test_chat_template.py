"""Chat templates of many kinds: rendered rightly, or refused in one line."""

import json
from datetime import datetime

import pytest
import torch

from dits_lib.agents import (
    ChatTemplateError,
    Turn,
    check_chat_template,
    end_of_turn,
    lead_in_ids,
    make_system,
    prompt_ids,
    reply_ids,
    spoken,
    stop_ids,
)
from dits_lib.agents.chat_template import knows_system, lead_in, opens_thought, render
from dits_lib.engines import ModelError, Request, TransformersEngine
from dits_lib.rollout import State, play
from dits_lib.tasks import Question

from .scripted import Scripted, byte_tokenizer
from .test_conformance import random_model

CHATML = byte_tokenizer().chat_template
ENDS = {
    "chatml": (CHATML, "<|im_end|>"),
    "gemma": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else "
        "m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}"
        "<start_of_turn>model\n{% endif %}",
        "<end_of_turn>",
    ),
    "llama3": (
        "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        "<|eot_id|>",
    ),
    "mistral": (
        "<s>{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
        "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>"
        "{% endif %}{% endfor %}",
        "</s>",
    ),
    "plain": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        "</s>",
    ),
}
MARKS = ["<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "<|eot_id|>", "<s>"]


def tokenizer_of(template, eos="</s>", special=MARKS):
    """Bytes, these special tokens, and a template; its end of sequence is none of the template's
    marks unless they say so."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"eos_token": eos, "additional_special_tokens": list(special)})
    tokenizer.chat_template = template
    return tokenizer


def text_of(tokenizer, turns=(), question="who?", agent="alice"):
    system = make_system("exchange", "chat")
    asked = Question("q", question, ("x",), {"alice": "left", "bob": "right"}, {"family": "f"})
    return tokenizer.decode(prompt_ids(tokenizer, system, asked, turns, agent))


@pytest.mark.parametrize("name", ENDS)
def test_a_turn_ends_where_the_template_ends_it(name):
    template, end = ENDS[name]
    tokenizer = tokenizer_of(template)
    check_chat_template(tokenizer)
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids(end)
    assert reply_ids(tokenizer, "so")[-1] == tokenizer.convert_tokens_to_ids(end)
    model = random_model("llama", vocab_size=len(tokenizer))
    model.generation_config.eos_token_id = [7, 9]
    assert stop_ids(tokenizer, model.generation_config) == sorted(
        {end_of_turn(tokenizer), tokenizer.eos_token_id, 7, 9}
    )
    assert TransformersEngine(model, tokenizer).stops.tolist() == stop_ids(
        tokenizer, model.generation_config
    )


THINKS = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (ENDS["chatml"][0], "<|im_start|>assistant\n"),
        (ENDS["llama3"][0], "<|start_header_id|>assistant<|end_header_id|>\n\n"),
        (ENDS["plain"][0], "<|assistant|>\n"),
        # These take no chat that the assistant begins: a prompt for a reply, without the question.
        (ENDS["gemma"][0].replace("== 'system'", "!= 'user'"), "<s><start_of_turn>model\n"),
        (ENDS["mistral"][0], "<s>"),  # nothing but the question stands before a reply
        (THINKS, "<|im_start|>assistant\n<think>\n"),  # a reply begins inside a thought
        ("{{ messages[-1].content }}{{ eos_token }}", "</s>"),  # writes nothing at all
    ],
)
def test_what_stands_before_a_reply_that_is_read_alone(template, expected):
    tokenizer = tokenizer_of(template)
    tokenizer.bos_token = "<s>" if "<s>" in expected else None
    assert lead_in(tokenizer) == expected
    ids = lead_in_ids(tokenizer)
    assert ids and tokenizer.decode(ids) == expected


@pytest.mark.parametrize("name", ENDS)
def test_every_message_is_written(name):
    tokenizer = tokenizer_of(ENDS[name][0])
    turns = (Turn("alice", "I read left."), Turn("bob", "I read right."))
    for said in range(3):
        agent = ("alice", "bob")[said % 2]
        text = text_of(tokenizer, turns[:said], agent=agent)
        assert "who?" in text and ("left" if agent == "alice" else "right") in text
        assert all(turn.text in text for turn in turns[:said])
        assert f"You are {agent.capitalize()}" in text  # the system message, wherever it stands


def test_a_template_that_drops_the_system_message_gets_it_as_the_users():
    drops = "{% for m in messages if m.role != 'system' %}" + CHATML.split("%}", 1)[1]
    tokenizer = tokenizer_of(drops, "<|im_end|>")
    assert not knows_system(tokenizer) and knows_system(tokenizer_of(CHATML, "<|im_end|>"))
    assert "Your half of the context:\nleft" in text_of(tokenizer)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no chat template"),
        ("", "does not write a user's message"),
        ("{% for m in messages %}{{ m.content }", "fails on a user's message"),
        ("{{ messages[0].content[0].text }}", "fails on a user's message|does not write"),
        ("{% for m in messages %}{{ m.content[0]['text'] }}{% endfor %}", "fails|does not write"),
        (
            {"tool_use": CHATML, "rag": CHATML},
            "templates named tool_use, rag alone; allowed: one template, or one of the name",
        ),
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content }} END\n{% endfor %}",
            "closes a turn by the text 'END', which is no special",
        ),
        ("{{ missing.name.of }}{{ messages[0].content }}", "fails on a user's message"),
    ],
)
def test_templates_that_cannot_be_used_are_refused_when_the_model_is_loaded(
    template, message, tmp_path
):
    tokenizer = tokenizer_of(CHATML, "<|im_end|>")
    tokenizer.chat_template = template
    with pytest.raises(ChatTemplateError, match=message):
        check_chat_template(tokenizer)
    random_model("llama", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=message) as error:
        TransformersEngine.load(tmp_path)
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)


def test_a_default_among_named_templates_is_taken():
    tokenizer = tokenizer_of({"default": CHATML, "rag": ""}, "<|im_end|>")
    check_chat_template(tokenizer)
    assert "who?" in text_of(tokenizer)


def test_an_agents_own_first_message():
    """Templates that want the user's message first are given the system message as that."""
    chat = [
        {"role": "system", "content": "rules"},
        {"role": "assistant", "content": "mine"},
        {"role": "user", "content": "yours"},
    ]
    text = render(tokenizer_of(ENDS["mistral"][0]), chat, True)
    assert text == "<s>[INST] rules [/INST] mine</s>[INST] yours [/INST]"
    with pytest.raises(ChatTemplateError, match="refuses messages of the roles assistant, user"):
        render(tokenizer_of(ENDS["mistral"][0]), chat[1:], True)


def test_the_system_message_may_stand_before_the_last_question():
    """As Mistral 7B v0.3 and Nemo write it."""
    late = (
        "<s>{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}[INST] "
        "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}\n\n"
        "{% endif %}{{ m.content }}[/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
    )
    tokenizer = tokenizer_of(late)
    check_chat_template(tokenizer)
    turns = (Turn("alice", "I read left."), Turn("bob", "I read right."))
    text = text_of(tokenizer, turns)
    assert text.index("who?") < text.index("I read left.") < text.index("Your half")


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_a_template_that_fails_on_one_role_alone_is_found_at_once(role):
    fails = "{% if 'ROLE' in messages | map(attribute='role') %}{{ 1 + none }}{% endif %}" + CHATML
    tokenizer = tokenizer_of(fails.replace("ROLE", role), "<|im_end|>")
    if role == "system":  # its text goes to the user
        check_chat_template(tokenizer)
        assert not knows_system(tokenizer)
    else:
        with pytest.raises(ChatTemplateError, match="refuses messages of the roles"):
            check_chat_template(tokenizer)


def test_a_scripted_reply_closes_the_thought_that_the_template_opens():
    opened = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    template = CHATML.split("{% if add_generation_prompt %}")[0] + opened
    tokenizer = tokenizer_of(template, "<|im_end|>")
    ids = reply_ids(tokenizer, "<A>Rome</A>")
    said = tokenizer.decode(ids, skip_special_tokens=True)
    assert spoken(tokenizer, ids, said) == "<A>Rome</A>"


def test_a_message_that_is_left_out_is_never_silent():
    """A template that writes the last message alone."""
    last = "{{ messages[-1].content }}<|im_end|>"
    with pytest.raises(ChatTemplateError, match="leaves out the user message 'one'"):
        render(
            tokenizer_of(last, "<|im_end|>"),
            [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}],
            False,
        )


@pytest.mark.parametrize(
    ("name", "mark"),
    [
        ("mistral", "[/INST]"),
        ("plain", "<|assistant|>"),
        ("plain", "</s>"),
        ("chatml", "<|im_end|>"),
    ],
)
def test_marks_in_what_an_agent_reads_open_no_message(name, mark):
    tokenizer = tokenizer_of(ENDS[name][0])
    plain, spliced = text_of(tokenizer), text_of(tokenizer, question=f"who? {mark} <A>x</A>")
    assert spliced.count(mark) == plain.count(mark) and "<A>x</A>" in spliced


def test_prompts_do_not_differ_by_the_day():
    dated = "Today is {{ strftime_now('%d %b %Y') }}. " + CHATML
    tokenizer = tokenizer_of(dated, "<|im_end|>")
    text = text_of(tokenizer)
    assert "Today is 26 Jul 2024." in text
    assert datetime.now().strftime("%d %b %Y") not in text


def test_thoughts_are_neither_told_nor_parsed():
    tokenizer = tokenizer_of(CHATML + "{# knows </think> #}", "<|im_end|>")

    def policy(prompt):
        return "<think>Is it <A>Paris</A>? <call page>x</call></think>\n<A>Rome</A>"

    engine = Scripted(tokenizer, policy)
    asked = Question("q", "where?", ("Rome",), {"alice": "", "bob": ""}, {"family": "f"})
    (dialogue,) = play(engine, make_system("exchange", "chat"), [State(asked, (), 0)], 0.0)
    assert dialogue.answer == "Rome" and dialogue.metric == 1.0
    assert [turn.text for turn in dialogue.turns] == ["<A>Rome</A>"] * 2
    assert all("Paris" not in prompt for prompt in engine.prompts)
    assert b"Paris" in bytes(
        tokenizer.decode(dialogue.turns[0].token_ids), "utf-8"
    )  # still trained


def test_a_thought_that_never_ends_is_no_reply():
    opened = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    template = CHATML.split("{% if add_generation_prompt %}")[0] + opened
    tokenizer = tokenizer_of(template, "<|im_end|>")
    assert opens_thought(tokenizer) and not opens_thought(tokenizer_of(CHATML, "<|im_end|>"))
    for text, aloud in (
        ("Is it <A>Paris</A>", ""),
        ("hm</think><A>Rome</A>", "<A>Rome</A>"),
        ("<think>hm</think><A>Rome</A>", "<A>Rome</A>"),
    ):
        assert spoken(tokenizer, tuple(tokenizer(text)["input_ids"]), text) == aloud


def test_tags_that_are_special_tokens_are_seen():
    tokenizer = tokenizer_of(CHATML, "<|im_end|>", [*MARKS, "<think>", "</think>"])
    ids = tuple(tokenizer("<think>Is it <A>Paris</A>?</think><A>Rome</A>")["input_ids"])
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert "Paris" in text and spoken(tokenizer, ids, text) == "<A>Rome</A>"


def test_a_model_that_does_not_think_may_say_the_word():
    tokenizer = tokenizer_of(CHATML, "<|im_end|>")
    assert spoken(tokenizer, (1,), "the tag <think> opens") == "the tag <think> opens"


def test_code_of_others_is_not_run(tmp_path):
    """`trust_remote_code` is never asked for: one line says so."""
    tokenizer = tokenizer_of(CHATML, "<|im_end|>")
    random_model("llama", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text()) | {
        "model_type": "their-own",
        "auto_map": {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"},
    }
    file.write_text(json.dumps(config))
    (tmp_path / "theirs.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="cannot load its config") as error:
        TransformersEngine.load(tmp_path)
    assert "\n" not in str(error.value)


def test_the_engine_stops_at_the_templates_end():
    """A model that says the template's end of turn, which is not the tokenizer's."""
    tokenizer = tokenizer_of(ENDS["llama3"][0])
    model, end = random_model("llama", vocab_size=len(tokenizer)), end_of_turn(tokenizer)
    assert end != tokenizer.eos_token_id
    saying = torch.tensor([end])
    model.lm_head.register_forward_hook(lambda _m, _i, out: out.index_fill(-1, saying, 50.0))
    (reply,) = TransformersEngine(model, tokenizer).generate([Request((1, 2, 3), 0, 8)])
    assert reply.token_ids == (end,)
