"""What pretraining learns from and gives: targets of an IQ segment, reconstruction and contrastive loss.

Letters in shape comments as in `modeling_mmwfm.py`.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils import ModelOutput

from .checks_mmwfm import ENVELOPE_GROUP, IQ_TARGETS
from .tokens_mmwfm import MMWFMTokens


@dataclass
class MMWFMForPreTrainingOutput(ModelOutput):
    """Result of masked wireless modeling. Fields of a family that was not in the input are None.

    Args:
        loss (`torch.Tensor` of shape `()`): `iq_loss + image_loss + config.contrastive_weight * contrastive_loss`, of
            those that there are.
        iq_loss, image_loss (`torch.Tensor` of shape `()`): mean squared error over masked real tokens; of several
            `config.iq_targets` the weighted sum.
        contrastive_loss (`torch.Tensor` of shape `()`): symmetric InfoNCE between the two views; None without a second.
        iq_logits (`torch.Tensor` of shape `(batch_size, num_tokens, 2 * segment_length)`): reconstructed segments,
            M values of I, then M of Q; tokens are ordered by segment, then antenna. Other `config.iq_targets` lie in
            place of these or after them: waveform (2M values), log-spectrum (M), envelope (M / 8, rounded up);
            `split_iq_logits` takes them apart.
        image_logits (`torch.Tensor` of shape `(batch_size, num_tokens, patch_size**2 * num_channels)`): reconstructed
            patches, ordered (row, column, channel).
        iq_mask, image_mask (`torch.Tensor` of shape `(batch_size, num_tokens)`): 1 = real token hidden from the encoder.
    """

    loss: torch.FloatTensor | None = None
    iq_loss: torch.FloatTensor | None = None
    image_loss: torch.FloatTensor | None = None
    contrastive_loss: torch.FloatTensor | None = None
    iq_logits: torch.FloatTensor | None = None
    image_logits: torch.FloatTensor | None = None
    iq_mask: torch.FloatTensor | None = None
    image_mask: torch.FloatTensor | None = None


def log_spectrum(values: torch.Tensor, value_is_real: torch.Tensor | None = None) -> torch.Tensor:
    """log10(|DFT|^2 / samples + 1e-2) + 0.5 of every segment, no window function; about 0 to 1 at unit power.

    The DFT is a product with a fixed matrix, as fast as an FFT at the usual lengths (up to 64) and exportable to ONNX.
    Always in float32, under autocast too. Of a segment that is real in part, the spectrum is that of its real samples
    padded with zeros to M, and the power is divided by their number, so that padding does not lower the level.

    Args:
        values: (B, N, 2M), M of I, then M of Q, 0 at padding; value_is_real: (B or 1, N, 2M) or None.

    Returns:
        (B, N, M) float32, bins from 0 upwards, then the negative ones (the order of an FFT).
    """
    length = values.shape[-1] // 2
    steps = torch.arange(length, device=values.device)
    angles = (steps[:, None] * steps % length) * (2 * math.pi / length)
    cosine, sine = angles.cos(), angles.sin()
    matrix = torch.cat([torch.cat([cosine, -sine], dim=1), torch.cat([sine, cosine], dim=1)])
    with torch.autocast(values.device.type, enabled=False):
        squares = (values.float() @ matrix).square()
    power = squares[..., :length] + squares[..., length:]
    count = length if value_is_real is None else value_is_real[..., :length].sum(-1, keepdim=True).clamp(min=1)
    return torch.log10(power / count + 1e-2) + 0.5


def envelope(
    values: torch.Tensor, value_is_real: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Mean power of every 8 samples (of those that are left in the last group), over the real ones alone.

    Args:
        values: (B, N, 2M), M of I, then M of Q, 0 at padding; value_is_real: (B or 1, N, 2M) or None.

    Returns:
        (B, N, ceil(M / 8)) float32, and (B or 1, N, ceil(M / 8)) bool, False where no sample is real; None: all real.
    """
    length = values.shape[-1] // 2
    squares = values.float().square()
    power = squares[..., :length] + squares[..., length:]
    is_real = torch.ones_like(power[:1, :1]) if value_is_real is None else value_is_real[..., :length].float()
    power, is_real = (
        nn.functional.pad(part, (0, -length % ENVELOPE_GROUP)).unflatten(-1, (-1, ENVELOPE_GROUP)).sum(-1)
        for part in (power, is_real)
    )
    return power / is_real.clamp(min=1), None if value_is_real is None else is_real > 0


def iq_target_sizes(config) -> dict[str, int]:
    """Values of each of `config.iq_targets` in a token's `iq_logits`, in their order there."""
    length = config.segment_length
    sizes = {"waveform": 2 * length, "log_spectrum": length, "envelope": math.ceil(length / ENVELOPE_GROUP)}
    return {name: sizes[name] for name in IQ_TARGETS if name in config.iq_targets}


def split_iq_logits(iq_logits: torch.Tensor, config) -> dict[str, torch.Tensor]:
    """(B, N, V) -> by target (B, N, values of that target)."""
    sizes = iq_target_sizes(config)
    return dict(zip(sizes, iq_logits.split(list(sizes.values()), dim=-1)))


def iq_targets(tokens: MMWFMTokens, config) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
    """By target the values (B, N, V) and which of them count (None: all).

    Of a segment that is real in part, waveform and envelope count at real samples; the log-spectrum, which is that of
    the real samples, counts in every bin.
    """
    targets = {}
    for name in iq_target_sizes(config):
        if name == "waveform":
            targets[name] = tokens.values, tokens.value_is_real
        elif name == "log_spectrum":
            targets[name] = log_spectrum(tokens.values, tokens.value_is_real), None
        else:
            targets[name] = envelope(tokens.values, tokens.value_is_real)
    return targets


def iq_reconstruction_loss(predictions: torch.Tensor, tokens: MMWFMTokens, mask: torch.Tensor, config) -> torch.Tensor:
    """Sum of the targets' reconstruction losses, weighted by `config.iq_targets`."""
    predictions = split_iq_logits(predictions, config)
    return sum(
        config.iq_targets[name]
        * reconstruction_loss(predictions[name], values, is_real, mask, config.normalize_targets)
        for name, (values, is_real) in iq_targets(tokens, config).items()
    )


def reconstruction_loss(
    predictions: torch.Tensor,
    targets: torch.Tensor,
    value_is_real: torch.Tensor | None,
    mask: torch.Tensor,
    normalize: bool,
) -> torch.Tensor:
    """Mean squared error of each token over its real values, averaged over the masked tokens, in float32."""
    targets = targets.float()
    weights = torch.ones_like(targets[:1, :1]) if value_is_real is None else value_is_real.float()
    count = weights.sum(-1, keepdim=True).clamp(min=1)
    if normalize:
        mean = (targets * weights).sum(-1, keepdim=True) / count
        variance = ((targets - mean).square() * weights).sum(-1, keepdim=True) / (count - 1).clamp(min=1)
        targets = (targets - mean) / (variance + 1e-6).sqrt()
    token_loss = ((predictions.float() - targets).square() * weights).sum(-1) / count[..., 0]
    return (token_loss * mask).sum() / mask.sum().clamp(min=1)


def contrastive_loss(
    first: torch.Tensor, second: torch.Tensor, temperature: float, is_real: torch.Tensor | None = None
) -> torch.Tensor:
    """Symmetric InfoNCE: row i of `first` and row i of `second` are the same recording, all other rows are not.

    Args:
        first, second: (B, D) embeddings, compared by their cosine.
        is_real: (B,) bool; False: the pair is left out, as anchor and as negative. None: all count.

    Returns:
        in float32, mean of both directions: log(B) where embeddings tell nothing, 0 for a single pair, which has
        nothing to be told from.
    """
    with torch.autocast(first.device.type, enabled=False):
        first, second = (nn.functional.normalize(part.float(), dim=-1) for part in (first, second))
        similarity = first @ second.T / temperature
    labels, count = torch.arange(len(first), device=first.device), len(first)
    if is_real is not None:
        similarity = similarity.masked_fill(~(is_real[:, None] & is_real), torch.finfo(similarity.dtype).min)
        labels, count = labels.masked_fill(~is_real, -100), is_real.sum().clamp(min=1)
    losses = [nn.functional.cross_entropy(part, labels, reduction="sum") for part in (similarity, similarity.T)]
    return (losses[0] + losses[1]) / (2 * count)
