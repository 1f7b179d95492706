"""Counter-based sampling noise: a pure function of (seed, position, token), so it does not depend
on the batch."""

from __future__ import annotations

import torch

_MASK64 = (1 << 64) - 1


def _signed(value: int) -> int:
    value &= _MASK64
    return value - (1 << 64) if value >> 63 else value


def _mix(x: torch.Tensor) -> torch.Tensor:
    """SplitMix64 finaliser (Steele et al., 2014) on int64, with logical shifts."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def gumbel(seeds: torch.Tensor, position: int, vocab_size: int) -> torch.Tensor:
    """Standard Gumbel noise [len(seeds), vocab_size]; argmax(logits / T + noise) samples
    softmax(logits / T).

    Args:
        seeds: int64 [n].
        position: index of the token in its reply.
    """
    rows = _mix(seeds + _signed((position + 1) * 0x9E3779B97F4A7C15))
    tokens = _mix(
        torch.arange(1, vocab_size + 1, device=seeds.device) * _signed(0xD1B54A32D192ED03)
    )
    return gumbel_of_bits((_mix(rows[:, None] ^ tokens[None, :]) >> 41) & 0x7FFFFF)


def gumbel_of_bits(bits: torch.Tensor) -> torch.Tensor:
    """Gumbel noise of uniform 23-bit integers. With 24 bits, float32 would round the largest to a
    uniform of 1: infinity."""
    return -torch.log(-torch.log((bits.to(torch.float32) + 0.5) / (1 << 23)))


def nucleus(logits: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """The logits, with -inf for tokens outside the nucleus (Holtzman et al., 2020): the fewest of
    the most likely tokens whose probabilities reach `top_p`, of equal ones those of lower index.
    The first of them always stays; a row of top_p 1 stays as it is.

    Args:
        logits: [rows, vocabulary], divided by the temperature.
        top_p: [rows, 1].
    """
    ordered, order = logits.softmax(1).sort(dim=1, descending=True, stable=True)
    # A token stays while those before it do not reach the sum.
    before = ordered.cumsum(1) - ordered
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter(1, order, before < top_p)
    return torch.where(kept | (top_p >= 1), logits, float("-inf"))
