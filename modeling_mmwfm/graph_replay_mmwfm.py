"""CUDA graphs: on a GPU a small model's step is mostly the launching of its kernels, which a graph launches at once."""

import warnings

import torch
from accelerate import Accelerator, DistributedType
from accelerate.logging import get_logger
from torch import nn

logger = get_logger(__name__)


class LossOf(nn.Module):
    """Loss of a model from the values of a batch, in the order of its names."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, values))).loss


class ReplayedLoss:
    """`source, batch -> loss`. The first batch of each source records forward and backward pass, later ones replay them.

    Gradients lie in the memory of their source's recording, so a source may come once in an optimiser step. The model
    must be in training mode, and nothing in it may wait for the GPU: batches have no padding. Autocast must not cache
    the weights that it has cast, which the graph would read for ever.
    """

    def __init__(self, model: nn.Module):
        self.model, self.graphs = model, {}
        # Gradients are summed on the stream of the recording, for which each backward pass waits.
        warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream does not match")

    def __call__(self, source: str, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if source not in self.graphs:
            inputs = tuple(value.clone() for value in batch.values())  # later batches are copied into these
            # Each family leaves the other's projections and head without gradient.
            self.graphs[source] = torch.cuda.make_graphed_callables(
                LossOf(self.model, tuple(batch)), inputs, allow_unused_input=True
            )
        return self.graphs[source](*batch.values())


def replay_if_possible(model: nn.Module, accelerator: Accelerator) -> ReplayedLoss | None:
    """None, with a warning, where there is no CUDA GPU or where processes exchange gradients within the backward pass."""
    if accelerator.device.type == "cuda" and accelerator.distributed_type == DistributedType.NO:
        return ReplayedLoss(model)
    found = f"{accelerator.num_processes} on {accelerator.device.type}"
    logger.warning(f"`cuda_graphs`: expected one process on a CUDA GPU, found {found}; steps are not recorded")
    return None
