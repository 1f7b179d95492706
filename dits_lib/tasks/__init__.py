"""Questions and how an answer is scored."""

from .base import SPLITS, Question
from .metrics import best_f1, choice_accuracy, normalize_answer, token_f1
from .micro import FAMILIES, HARM_KINDS, KEYS_OF_SPLIT, make_questions, vocabulary
from .micro_web import WEB_FAMILIES, MicroWeb, make_web, web_questions, web_vocabulary, write_site
from .own import read_questions
from .rows import DataError

__all__ = [
    "FAMILIES",
    "HARM_KINDS",
    "KEYS_OF_SPLIT",
    "SPLITS",
    "WEB_FAMILIES",
    "DataError",
    "MicroWeb",
    "Question",
    "best_f1",
    "choice_accuracy",
    "make_questions",
    "make_web",
    "normalize_answer",
    "read_questions",
    "token_f1",
    "vocabulary",
    "web_questions",
    "web_vocabulary",
    "write_site",
]
