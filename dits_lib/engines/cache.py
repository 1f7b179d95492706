"""A key-value cache allocated once: appending copies no earlier states, and finished rows can be
dropped."""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, DynamicLayer


class _Layer(DynamicLayer):
    def __init__(self, capacity: int):
        super().__init__()
        self.capacity, self.length = capacity, 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        batch, heads, _, width = key_states.shape
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_empty(batch, heads, self.capacity, width)
        self.values = value_states.new_empty(batch, heads, self.capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        stop = self.length + key_states.shape[2]
        self.keys[:, :, self.length : stop] = key_states
        self.values[:, :, self.length : stop] = value_states
        self.length = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0


class PreallocatedCache(Cache):
    """A cache for `layers` layers and at most `capacity` positions."""

    def __init__(self, layers: int, capacity: int):
        super().__init__(layers=[_Layer(capacity) for _ in range(layers)])

    def start_from(
        self, states: list[tuple[torch.Tensor, torch.Tensor]], rows: torch.Tensor
    ) -> None:
        """Fill the first positions with earlier states [n, heads, length, width], one row of them
        for each row here."""
        for layer, (keys, values) in zip(self.layers, states, strict=True):
            layer.update(keys[rows], values[rows])

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows of the batch, in this order."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]


class PrefixStates:
    """Keys and values of prompt prefixes, by (adapter, token ids): computed once, used by every
    request that shares them.

    They belong to one LoRA stack: another stack empties the store, so that no request is served
    another adapter's states.
    """

    def __init__(self, max_tokens: int):
        self.max_tokens = max_tokens
        self.clear(None)

    def clear(self, owner: object) -> None:
        self.owner = owner
        self.row_of: dict[tuple, int] = {}
        self.width = 0
        self._buffers: list[tuple[torch.Tensor, torch.Tensor]] = []

    @property
    def states(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of each layer, [n or more, heads, width, size], left-padded; rows as in
        `row_of`."""
        return self._buffers

    def missing(self, keys: list[tuple], owner: object) -> list[tuple]:
        """The distinct keys that must be computed; may empty the store first to make room."""
        if owner is not self.owner:
            self.clear(owner)
        new = [key for key in dict.fromkeys(keys) if key not in self.row_of]
        width = max([self.width, *(len(ids) for _, ids in new)])
        if new and (len(self.row_of) + len(new)) * width > self.max_tokens:
            self.clear(owner)
            new = list(dict.fromkeys(keys))
        return new

    def add(self, keys: list[tuple], states: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Store states [n, heads, width, size], left-padded, of these keys."""
        start, stop = len(self.row_of), len(self.row_of) + len(keys)
        self._reserve(stop, states)
        for buffers, new in zip(self._buffers, states, strict=True):
            for buffer, part in zip(buffers, new, strict=True):
                buffer[start:stop, :, self.width - part.shape[2] :] = part
        self.row_of.update({key: start + i for i, key in enumerate(keys)})

    def _reserve(self, rows: int, states: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Grow the buffers by doubling, so that adding many prefixes copies each a few times
        only."""
        width = max(self.width, states[0][0].shape[2])
        held = self._buffers[0][0].shape[0] if self._buffers else 0
        if rows <= held and width == self.width:
            return
        capacity = max(rows, 2 * held if rows > held else held)
        grown = []
        for index, layer in enumerate(states):
            pair = []
            for part, new in enumerate(layer):
                buffer = new.new_zeros(capacity, new.shape[1], width, new.shape[3])
                if held:
                    buffer[:held, :, width - self.width :] = self._buffers[index][part]
                pair.append(buffer)
            grown.append(tuple(pair))
        self._buffers, self.width = grown, width
