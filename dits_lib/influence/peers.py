"""Gradients and their preconditioning by `bergson`, a library of data attribution (EleutherAI;
optional: `make setup PEERS=1`), for the estimators that are called after it.

bergson's losses are of one text: cross entropy, which a number of each text may weigh (its column
`advantage`). Sums of such gradients are all that both sides need:

- a pair: `grad L_DPO = a * grad log pi(chosen) + b * grad log pi(rejected)`, where a and b are the
  derivatives of the loss by the two log probabilities (`pair_rows`);
- the target: `grad E[F]`, log probabilities of sampled replies weighed by advantages
  (`leave_one_out_rows`).

Its gradients are those of the weights of the linear layers that adapters may change, where our own
are those of a fresh LoRA's B: for a layer with the gradient G, `scaling * G A^T`.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..pairs import Pair
from ..tasks import Question
from .base import DPOLoss, Estimator, ScoreError, Scores, ScoringContext
from .validation_gradients import Row

if TYPE_CHECKING:
    import torch
    from bergson import GradientProcessor
    from datasets import Dataset

    from ..engines import TransformersEngine

Rows = tuple[list[Row], list[float], list[int]]
"""Rows, the weight of each row's log probability, and the owner of each row."""


class PeerEstimator(Estimator):
    """An estimator that needs bergson."""

    @property
    def missing(self) -> str | None:
        """What to run where bergson is not installed; None where it is."""
        if find_spec("bergson") is not None:
            return None
        return f"{self.name}, which needs the package bergson: run make setup PEERS=1"

    def score(
        self, context: ScoringContext, pairs: list[Pair], questions: list[Question], seed: object
    ) -> Scores:
        """As `Estimator.score`.

        Raises:
            ScoreError: also where bergson is not installed.
        """
        if self.missing:
            raise ScoreError(f"the estimator is {self.missing}")
        return super().score(context, pairs, questions, seed)


def pair_rows(learner: TransformersEngine, pairs: list[Pair], loss: DPOLoss) -> Rows:
    """Rows, weights and owners (pairs) whose weighted log-probability gradient is that of each
    pair's loss.

    With `m = log pi/ref (chosen) - log pi/ref (rejected)` the loss `-log sigmoid(beta m)` has the
    derivative `-beta sigmoid(-beta m)` by m (Rafailov et al., 2023, section 4); m is 0 where the
    reference is the policy itself.
    """
    import torch

    margins = torch.zeros(len(pairs))
    if loss.reference is not None:
        rows = [(p.prompt_ids, p.chosen_ids) for p in pairs]
        rows += [(p.prompt_ids, p.rejected_ids) for p in pairs]
        policy = torch.tensor([sum(scores) for scores in learner.logprobs(rows)])
        known = [loss.reference[p.id] for p in pairs]
        reference = torch.tensor([*zip(*known, strict=True)]).flatten()
        chosen, rejected = (policy - reference).chunk(2)
        margins = chosen - rejected
    slopes = (loss.beta * torch.sigmoid(-loss.beta * margins)).tolist()
    found, weights, owners = [], [], []
    for owner, (pair, slope) in enumerate(zip(pairs, slopes, strict=True)):
        found += [(pair.prompt_ids, pair.chosen_ids), (pair.prompt_ids, pair.rejected_ids)]
        weights += [-slope - loss.nll_weight / len(pair.chosen_ids), slope]
        owners += [owner, owner]
    return found, weights, owners


def summed_gradients(
    learner: TransformersEngine,
    given: Rows,
    count: int,
    *,
    processor: GradientProcessor | None = None,
    temperature: float = 1.0,
    batch: int = 64,
) -> dict[str, torch.Tensor]:
    """For each owner, the gradient of `sum_i weights_i * log pi(reply_i | prompt_i)` over its rows:
    {layer: [count, size]}, on the CPU. A layer's size is out * in, or the square of the processor's
    `projection_dim`.

    Args:
        processor: how bergson projects; None: it does not.
        temperature: of log pi: that at which the replies were sampled.
        batch: rows that share a forward and backward pass.
    """
    import torch

    with bergson_loaded(), model_ready(learner, temperature), TemporaryDirectory() as folder:
        from bergson import GradientProcessor
        from bergson.collector.gradient_collectors import StreamingGradientCollector

        class Sums(StreamingGradientCollector):
            """Adds each row's gradient to that of its owner, so that none is kept."""

            def process_batch(self, indices, **_):
                for name, gradients in self.mod_grads.items():
                    sums[name].index_add_(0, owners[indices], gradients.float())
                self.mod_grads.clear()

        data, owners = dataset_of(given)
        collector = Sums(
            model=learner.model.base_model,
            target_modules=layer_names(learner),
            processor=processor or GradientProcessor(),
            dtype=torch.float32,
        )
        sums = {
            name: torch.zeros(count, shape.numel()) for name, shape in collector.shapes().items()
        }
        collect(learner, data, collector, folder, batch)
        return sums


def scored_rows(
    learner: TransformersEngine,
    given: Rows,
    count: int,
    target: dict[str, torch.Tensor],
    *,
    batch: int = 64,
) -> torch.Tensor:
    """Inner products [count, n] of the gradient that `summed_gradients` gives each owner with every
    row of the target {layer: [n, out * in]}, taken while the gradients are made (bergson's
    `Scorer`): none is kept."""
    import torch

    with bergson_loaded(), model_ready(learner, 1.0), TemporaryDirectory() as folder:
        from bergson import InMemoryCollector, Scorer
        from bergson.score.score_writer import InMemorySequenceScoreWriter

        data, owners = dataset_of(given)
        writer = InMemorySequenceScoreWriter(len(data), len(next(iter(target.values()))))
        collector = InMemoryCollector(
            model=learner.model.base_model,
            target_modules=layer_names(learner),
            data=data,
            cfg=run_settings(folder),
            scorer=Scorer(target, [*target], writer, learner.device, torch.float32),
        )
        collect(learner, data, collector, folder, batch)
        return torch.zeros(count, writer.scores.shape[1]).index_add_(0, owners, writer.scores)


def inverse_fisher(
    learner: TransformersEngine,
    target: dict[str, torch.Tensor],
    given: Rows,
    *,
    damping: float,
    seed: int,
    batch: int = 64,
) -> dict[str, torch.Tensor]:
    """The target {layer: [n, out * in]} times the inverse of the Fisher matrix of the replies of
    these rows, by EK-FAC (George et al., 2018; Grosse et al., 2023).

    Args:
        damping: added to the eigenvalues, relative to their mean.
        seed: of the labels, which bergson samples from the model at the places of the replies.
    """
    import torch

    with bergson_loaded(), model_ready(learner, 1.0), TemporaryDirectory() as folder:
        from bergson.config import HessianConfig, InversionConfig
        from bergson.hessians.hessian_approximations import fit_factored_hessians
        from bergson.hessians.preconditioner import FactoredPreconditioner

        data, _ = dataset_of(given)
        on_gpu = [learner.device] if learner.device.type == "cuda" else []
        with torch.random.fork_rng(devices=on_gpu):
            torch.manual_seed(seed)
            fit_factored_hessians(
                learner.model,
                data,
                run_settings(folder),
                HessianConfig(method="kfac", ev_correction=True),
                target_modules=layer_names(learner),
                attention_cfgs={},
                batches=batches_of(data, batch),
                path=str(Path(folder) / "factors"),
                do_eigendecomposition=True,
            )
        # Read once for the factors, once more for their eigenvalues.
        learner.usage.prompt_tokens += 2 * sum(len(ids) for ids in data["input_ids"])
        inverse = FactoredPreconditioner.from_path(
            Path(folder) / "factors",
            inversion_cfg=InversionConfig(damping_factor=damping),
            ev_correction=True,
        )
        return inverse.apply(target)


@contextmanager
def bergson_loaded() -> Iterator[None]:
    """bergson, imported and silent: its import would make every library's log print, and its
    collectors write a line and a bar each."""
    root, disabled = logging.getLogger(), logging.root.manager.disable
    handlers, level = root.handlers[:], root.level
    try:
        import bergson  # noqa: F401
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    logging.disable(logging.INFO)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def model_ready(learner: TransformersEngine, temperature: float) -> Iterator[None]:
    """The model as bergson's collectors want it: gradients flow from the embeddings on, and no
    weight keeps one. The logits are float32, over the temperature."""
    model = learner.model
    held = [(weight, weight.requires_grad) for weight in model.parameters()]

    def scaled(_module, _inputs, output):
        output.logits = output.logits.float() / temperature
        return output

    hook = model.register_forward_hook(scaled)
    try:
        model.requires_grad_(False)
        model.get_input_embeddings().requires_grad_(True)
        yield
    finally:
        hook.remove()
        for weight, wanted in held:
            weight.requires_grad_(wanted)


def layer_names(learner: TransformersEngine) -> set[str]:
    """The layers that adapters may change, by the names that bergson knows them by."""
    layers = set(learner.lora.modules.values())
    return {name for name, module in learner.model.base_model.named_modules() if module in layers}


def dataset_of(given: Rows) -> tuple[Dataset, torch.Tensor]:
    """Rows as bergson reads them, and their owners; those of weight 0 are left out. Its loss is the
    negative log probability, so that a row's number is the negative of its weight."""
    import torch
    from datasets import Dataset

    kept = [(row, weight, owner) for row, weight, owner in zip(*given, strict=True) if weight != 0]
    data = Dataset.from_dict(
        {
            "input_ids": [[*prompt, *reply] for (prompt, reply), _, _ in kept],
            "labels": [[-100] * len(prompt) + [*reply] for (prompt, reply), _, _ in kept],
            "advantage": [-weight for _, weight, _ in kept],
        }
    )
    return data, torch.tensor([owner for _, _, owner in kept], dtype=torch.long)


def batches_of(data: Dataset, batch: int) -> list[list[int]]:
    """Indices of rows that share a pass, those of similar length together."""
    lengths = [len(ids) for ids in data["input_ids"]]
    order = sorted(range(len(data)), key=lengths.__getitem__)
    return [order[start : start + batch] for start in range(0, len(order), batch)]


def run_settings(folder: str | Path):
    """bergson's settings of a run: the sum of a text's losses, notes in a folder."""
    from bergson import IndexConfig

    config = IndexConfig(run_path=str(Path(folder) / "run"), loss_fn="ce", loss_reduction="sum")
    config.partial_run_path.mkdir(exist_ok=True)
    return config


def collect(learner: TransformersEngine, data: Dataset, collector, folder: str, batch: int) -> None:
    """Run a collector of bergson over the rows, and count their tokens."""
    from bergson import CollectorComputer

    batches = batches_of(data, batch)
    settings = run_settings(folder)
    computer = CollectorComputer(
        learner.model, data, collector=collector, batches=batches, cfg=settings
    )
    computer.run_with_collector_hooks()
    learner.usage.prompt_tokens += sum(len(ids) for ids in data["input_ids"])
