"""`torch.compile` where it works: on a CPU it needs a C++ compiler, on a GPU Triton."""

import uuid

import torch
from accelerate.logging import get_logger
from torch import nn

logger = get_logger(__name__)


def compile_if_possible(model: nn.Module, device: torch.device) -> nn.Module:
    """The model compiled, once for each of the shapes that it is given; itself, with a warning, where no compiler
    works for `device`."""
    number = uuid.uuid4().int / 2**128  # a program that was compiled before would be loaded, without a compiler
    try:
        torch.compile(lambda values: values.sin() * number, dynamic=False)(torch.ones(8, device=device))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        logger.warning(f"`torch_compile`: no compiler works for {device}, the model runs uncompiled: {reason}")
        return model
    # With sizes as symbols inductor of torch 2.13 fails at the second image size (ValueRangeError).
    return torch.compile(model, dynamic=False)
