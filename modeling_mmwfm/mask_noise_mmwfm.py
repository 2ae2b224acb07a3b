"""Noise that the masks of a batch are made of, so that they can be given."""

import inspect
import math
from collections.abc import Callable

import torch


def takes_noise(model: torch.nn.Module) -> bool:
    """Whether the model's masks can be given; other models draw from torch's generator."""
    return any(name.endswith("_noise") for name in inspect.signature(model.forward).parameters)


def count_tokens(config, batch: dict[str, torch.Tensor]) -> dict[str, int]:
    """Tokens of each sample of a batch, by family."""
    tokens = {}
    if "iq_values" in batch:
        antennas, _, samples = batch["iq_values"].shape[1:]
        tokens["iq"] = antennas * math.ceil(samples / config.segment_length)
    if "pixel_values" in batch:
        height, width = batch["pixel_values"].shape[-2:]
        tokens["image"] = (height // config.patch_size) * (width // config.patch_size)
    return tokens


def add_noise(batch: dict[str, torch.Tensor], config, draw: Callable[[tuple[int, int]], torch.Tensor]):
    """Give a batch the noise that its masks are made of, of both families also that which hides a view whole.

    Args:
        draw: of how many values of each sample -> this process's samples of them, (B, values) in [0, 1).
    """
    tokens = count_tokens(config, batch)
    for family, count in tokens.items():
        batch[f"{family}_noise"] = draw(count)
    if len(tokens) == 2:
        batch["view_noise"] = draw(2)


def seeded_noise(size: int, seed: int, own: slice = slice(None)) -> Callable[[int], torch.Tensor]:
    """`draw` of `add_noise` for a batch of `size` samples that always has the same noise."""
    generator = torch.Generator().manual_seed(seed)
    return lambda values: torch.rand(size, values, generator=generator)[own]
