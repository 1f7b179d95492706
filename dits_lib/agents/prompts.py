"""What the agents are told: the micro world's terse prompts, and prompts for a chat model.

{view} is what the agent may read, {question} the question, {name} the agent's name and {partner} the other's.
"""

from __future__ import annotations

MICRO = {
    "exchange": {"instructions": ("{role} : {view} ask {question}",) * 2, "opening": ""},
    "debate": {"instructions": ("{role} : {view} ask {question}",) * 2, "opening": ""},
}

_EXCHANGE = """You are {name}. You and {partner} answer a question together. Each of you reads one half of the context, and often neither half is enough.
In each turn, either tell {partner} in one short sentence what your half says about the question, or ask for what you lack.
When you know the answer, reply with <A>answer</A>: the answer alone, in as few words as possible. You are done when both of you have given the same answer.

Your half of the context:
{view}"""

_SOLVER = """You answer multiple-choice questions. Reason in one or two sentences, then give the letter of your choice as <A>letter</A>.
A critic comments on your answer; then answer once more in the same form."""

_CRITIC = """You are shown a multiple-choice question and a solver's answer. If the answer is right, reply with the one word: agree
Otherwise say in one sentence what to reconsider. Never give the letter of the right option."""

CHAT = {
    "exchange": {"instructions": (_EXCHANGE, _EXCHANGE), "opening": "Question: {question}"},
    "debate": {"instructions": (_SOLVER, _CRITIC), "opening": "{question}"},
}

PROMPTS = {"micro": MICRO, "chat": CHAT}
