"""Between raw input and learned layers: cutting into tokens and back, fixed positions, masking, pooling.

Letters in shape comments as in `modeling_mmwfm.py`.
"""

from typing import NamedTuple

import torch
from torch import nn


class MMWFMTokens(NamedTuple):
    """One family's input cut into tokens, before any learned layer."""

    values: torch.Tensor  # (B, N, V)
    grid: tuple[int, int]  # tokens are ordered over (segments, antennas) or (patch rows, patch columns)
    is_real: torch.Tensor | None  # (B, N) bool; None: all real
    value_is_real: torch.Tensor | None  # (B or 1, N, V) bool, where tokens are real in part; None: all real


class MMWFMVisible(NamedTuple):
    """Which tokens of one family the encoder sees."""

    index: torch.Tensor  # (B, K) int64
    is_real: torch.Tensor | None  # (B, K) bool; False where a sample has fewer visible tokens than the batch's most
    mask: torch.Tensor  # (B, N) bool, reconstruction mask


def sincos_positions(positions: torch.Tensor, width: int) -> torch.Tensor:
    """Fixed sin-cos vectors, sines first: `(num_positions,)` -> `(num_positions, width)`, float32.

    Computed where needed instead of kept in a buffer: any length, nothing to load. In float64, which MPS lacks.
    """
    dtype = torch.float32 if positions.device.type == "mps" else torch.float64
    exponents = torch.arange(width // 2, device=positions.device, dtype=dtype) / (width // 2)
    angles = positions.to(dtype)[:, None] * 10000.0**-exponents
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def sincos_grid(height: int, width: int, hidden_size: int, device=None) -> torch.Tensor:
    """2-D sin-cos table `(height * width, hidden_size)`: the column in the first half, the row in the second (MAE)."""
    rows = sincos_positions(torch.arange(height, device=device), hidden_size // 2)
    columns = sincos_positions(torch.arange(width, device=device), hidden_size // 2)
    table = torch.cat([columns.expand(height, -1, -1), rows[:, None].expand(-1, width, -1)], dim=-1)
    return table.flatten(0, 1)


def patchify(pixel_values: torch.Tensor, patch_size: int) -> torch.Tensor:
    """(B, C, H, W) -> (B, N, P * P * C), values ordered (row, column, channel)."""
    batch_size, channels, height, width = pixel_values.shape
    rows, columns = height // patch_size, width // patch_size
    patches = pixel_values.reshape(batch_size, channels, rows, patch_size, columns, patch_size)
    return patches.permute(0, 2, 4, 3, 5, 1).reshape(batch_size, rows * columns, patch_size**2 * channels)


def unpatchify(patches: torch.Tensor, patch_size: int, height: int, width: int) -> torch.Tensor:
    """(B, N, P * P * C) -> (B, C, H, W), the inverse of `patchify`."""
    rows, columns = height // patch_size, width // patch_size
    patches = patches.reshape(len(patches), rows, columns, patch_size, patch_size, -1)
    return patches.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, height, width)


def segment(iq_values: torch.Tensor, segment_length: int) -> torch.Tensor:
    """(B, A, channels, T) -> (B, S * A, channels * M), by segment, then antenna; T is padded with zeros to S * M."""
    batch_size, antennas, channels, samples = iq_values.shape
    iq_values = nn.functional.pad(iq_values, (0, -samples % segment_length))
    segments = iq_values.unflatten(-1, (-1, segment_length)).permute(0, 3, 1, 2, 4)
    return segments.reshape(batch_size, -1, channels * segment_length)


def unsegment(segments: torch.Tensor, num_antennas: int, num_samples: int) -> torch.Tensor:
    """(B, S * A, 2 * M) -> (B, A, 2, T), the inverse of `segment` for IQ."""
    batch_size, _, values = segments.shape
    segments = segments.reshape(batch_size, -1, num_antennas, 2, values // 2)
    return segments.permute(0, 2, 3, 1, 4).flatten(3)[..., :num_samples]


def unsegment_spectra(spectra: torch.Tensor, num_antennas: int) -> torch.Tensor:
    """(B, S * A, M) in the order of an FFT -> (B, A, M, S) images: rows from the highest frequency down, time along."""
    images = spectra.unflatten(1, (-1, num_antennas)).permute(0, 2, 3, 1)
    return images.roll(spectra.shape[-1] // 2, 2).flip(2)


def take_tokens(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """(B, N, V), (B, K) -> (B, K, V)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def draw_visible(tokens: MMWFMTokens, noise: torch.Tensor, mask_ratio: float, whole_antennas: bool) -> MMWFMVisible:
    """Keep the units (tokens, or whole antennas) of lowest noise: floor(real units * (1 - mask_ratio)), at least 1.

    Args:
        noise: (B, N) values in [0, 1); for whole antennas its mean over an antenna's real tokens counts.
    """
    batch_size, num_tokens, _ = tokens.values.shape
    is_real = tokens.is_real
    if noise.shape != (batch_size, num_tokens):
        raise ValueError(f"noise: expected (batch, tokens) = {(batch_size, num_tokens)}, found {tuple(noise.shape)}")
    unit_is_real, tokens_per_unit = is_real, 1
    if whole_antennas:
        tokens_per_unit, num_antennas = tokens.grid
        by_antenna = noise.unflatten(1, tokens.grid)
        if is_real is None:
            noise = by_antenna.mean(1)
        else:
            real = is_real.unflatten(1, tokens.grid)
            unit_is_real = real.any(1)
            noise = (by_antenna * real).sum(1) / real.sum(1).clamp(min=1)
    # The count stays a Python number where nothing is padded, so that compiled graphs have static shapes.
    if is_real is None:
        keep = max(1, int(noise.shape[1] * (1 - mask_ratio)))
    else:
        noise = noise.masked_fill(~unit_is_real, torch.inf)
        counts = unit_is_real.sum(1, keepdim=True)
        keep = (counts.double() * (1 - mask_ratio)).floor().long().clamp(min=1).minimum(counts)
    kept = noise.argsort(dim=1, stable=True).argsort(dim=1) < keep
    if whole_antennas:
        kept = kept[:, None].expand(-1, tokens_per_unit, -1).flatten(1)
    if is_real is None:
        index = kept.int().argsort(dim=1, descending=True, stable=True)[:, : keep * tokens_per_unit]
        return MMWFMVisible(index, None, ~kept)
    kept = kept & is_real
    index = kept.int().argsort(dim=1, descending=True, stable=True)[:, : int(kept.sum(1).max())]
    return MMWFMVisible(index, kept.gather(1, index), is_real & ~kept)


def hide_views(
    visible: dict[str, MMWFMVisible], tokens: dict[str, MMWFMTokens], noise: torch.Tensor, probability: float
) -> dict[str, MMWFMVisible]:
    """Hide one of two input families whole in some samples: no visible token, every real one to be reconstructed.

    A sample is left as it is where the other family has no real token, from which it could be reconstructed.

    Args:
        noise: (B, 2) values in [0, 1): below `probability` in the first column a family is hidden, "iq" below 0.5 in
            the second and "image" from there on.
    """
    batch_size = len(tokens["iq"].values)
    if noise.shape != (batch_size, 2):
        raise ValueError(f"`view_noise`: expected (batch, 2) = {(batch_size, 2)}, found {tuple(noise.shape)}")
    hides, hides_iq = noise[:, 0] < probability, noise[:, 1] < 0.5
    found = {}
    for family, other, chosen in (("iq", "image", hides_iq), ("image", "iq", ~hides_iq)):
        index, is_real, mask = visible[family]
        hidden = hides & chosen
        if tokens[other].is_real is not None:
            hidden = hidden & tokens[other].is_real.any(1)
        is_real = torch.ones_like(index, dtype=torch.bool) if is_real is None else is_real
        token_is_real = torch.ones_like(mask) if tokens[family].is_real is None else tokens[family].is_real
        found[family] = MMWFMVisible(
            index, is_real & ~hidden[:, None], torch.where(hidden[:, None], token_is_real, mask)
        )
    return found


def pool_tokens(hidden_states: torch.Tensor, is_real: torch.Tensor | None, with_std: bool = False) -> torch.Tensor:
    """Mean over real tokens: (B, N, D), (B, N) -> (B, D); with their standard deviation (over N, not N - 1) (B, 2D)."""
    dtype = hidden_states.dtype
    if with_std:
        hidden_states = hidden_states.float()
    weights = None if is_real is None else is_real[..., None].to(hidden_states.dtype)

    def mean(values):
        if weights is None:
            return values.mean(1)
        return (values * weights).sum(1) / weights.sum(1).clamp(min=1)

    center = mean(hidden_states)
    if not with_std:
        return center
    # The square root of 0, where all tokens are equal, would have an infinite gradient.
    variance = mean((hidden_states - center[:, None]).square())
    return torch.cat([center, variance.clamp(min=1e-12).sqrt()], dim=-1).to(dtype)
