"""A tokenizer of bytes, and an engine that speaks by a function of the prompt: for control flow
alone."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dits_lib.engines import Completion, Engine, Usage


def byte_tokenizer():
    """Bytes, with ChatML's control tokens: nothing is unknown to it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer, inner.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    found = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )
    found.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"  # noqa: E501
    return found


class Scripted(Engine):
    """Speaks by a function of the prompt's text; for control flow alone."""

    def __init__(self, tokenizer, policy):
        self.tokenizer, self.policy, self.usage, self.prompts = tokenizer, policy, Usage(), []

    def snapshot(self):
        return Usage()

    def generate(self, requests, adapters=None):
        texts = [self.tokenizer.decode(request.prompt_ids) for request in requests]
        self.prompts += texts
        replies = [self.policy(text) for text in texts]
        return [
            Completion(tuple(self.tokenizer(r)["input_ids"]), r, (0.0,) * len(r)) for r in replies
        ]
