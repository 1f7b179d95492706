"""Per-row LoRA: every row of a batch may have its own adapter, by one batched product in each
linear layer."""

from __future__ import annotations

import torch
from torch import nn

from .base import LoRAStack


class RowLoRA:
    """Forward hooks that add each row's LoRA term to the linear layers of a model. Without a stack
    they do nothing."""

    def __init__(self, model: nn.Module, targets: tuple[str, ...]):
        """Hook every `nn.Linear` whose last name part is in `targets`.

        Raises:
            ValueError: when no layer matches.
        """
        self.modules = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in targets
        }
        if not self.modules:
            raise ValueError(f"no linear layer is named any of {', '.join(targets)}")
        self._rows: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._scaling = 1.0
        for name, module in self.modules.items():
            module.register_forward_hook(self._hook(name))

    def _hook(self, name: str):
        def add(_module, inputs, output):
            if name not in self._rows:
                return output
            a, b = self._rows[name]
            x = inputs[0].to(a.dtype)  # adapters are float32, the model may be bfloat16
            hidden = x @ a.T if a.dim() == 2 else torch.bmm(x, a.transpose(1, 2))
            return output + (self._scaling * torch.bmm(hidden, b.transpose(1, 2))).to(output.dtype)

        return add

    def use(self, stack: LoRAStack | None, rows: torch.Tensor | None = None) -> None:
        """Set the adapters of the coming batch; `rows` [batch] indexes the stack, -1 means no
        adapter."""
        if stack is None or rows is None:
            self._rows = {}
            return
        unknown = set(stack.weights) - set(self.modules)
        if unknown:
            raise ValueError(
                f"adapter for {sorted(unknown)[0]!r}, which is not among the hooked layers"
            )
        self._scaling = stack.scaling
        self._rows = {
            name: (self._pick_a(a, rows), self._pick_b(b, rows))
            for name, (a, b) in stack.weights.items()
        }

    @staticmethod
    def _pick_a(a: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return a if a.dim() == 2 else a[rows.clamp(min=0)]

    @staticmethod
    def _pick_b(b: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        picked = b[rows.clamp(min=0)]
        return picked if bool((rows >= 0).all()) else picked * (rows >= 0)[:, None, None]


def fresh_a(
    model: nn.Module, modules: dict[str, nn.Module], rank: int, seed: int
) -> dict[str, torch.Tensor]:
    """Fresh LoRA A matrices [rank, in], Kaiming-uniform(sqrt 5) as PEFT initialises them; B is zero
    by convention."""
    generator = torch.Generator().manual_seed(seed & 0x7FFFFFFFFFFFFFFF)
    device = next(model.parameters()).device
    a = {}
    for name, module in modules.items():
        bound = 1 / module.in_features**0.5
        a[name] = ((torch.rand(rank, module.in_features, generator=generator) * 2 - 1) * bound).to(
            device
        )
    return a
