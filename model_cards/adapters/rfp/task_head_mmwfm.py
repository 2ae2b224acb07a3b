"""The head of every model here: one linear layer on pooled features -> classes, or coordinates in metres."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput


@dataclass
class MMWFMClassifierOutput(ImageClassifierOutput):
    """With `novelty` (B,), see `MMWFMHead`; None where the head does not know its training rows."""

    novelty: torch.FloatTensor | None = None


class MMWFMHead(nn.Linear):
    """A linear layer that may also know where the features of its training rows lie.

    Novelty is the Mahalanobis distance to the nearest class mean (Lee et al., arXiv 1807.03888), in units of what 99 %
    of rows held out of the training rows stay below: larger is farther, and above 1 is unlike the training rows. The
    covariance within classes is that of `rank` directions and one variance for all others.

    Args:
        num_centers: class means, 1 for positions.
        rank: directions; 0: the head knows nothing of its training rows.

    Buffers, if it does: `centers` (num_centers, F); `scale` (F,), by which features are multiplied; `basis` (rank, F),
    what the directions take off the squared length.
    """

    def __init__(self, in_features: int, num_labels: int, num_centers: int = 1, rank: int = 0):
        super().__init__(in_features, num_labels)
        if rank:
            self.register_buffer("centers", torch.zeros(num_centers, in_features))
            self.register_buffer("scale", torch.zeros(in_features))
            self.register_buffer("basis", torch.zeros(rank, in_features))

    def novelty(self, features: torch.Tensor) -> torch.Tensor:
        """(B, F) -> (B,) float32"""
        apart = (features.float()[:, None] - self.centers.float()) * self.scale.float()
        square = apart.square().sum(-1) - (apart @ self.basis.float().T).square().sum(-1)
        return square.clamp(min=0).sqrt().amin(1)


def make_classifier(config: PreTrainedConfig, width: int) -> MMWFMHead:
    """
    Raises:
        ValueError: a problem type other than one class of several or regression, or label limits of another length.
    """
    if config.problem_type == "multi_label_classification":
        raise ValueError(
            f"`problem_type`: expected 'single_label_classification' or 'regression', found '{config.problem_type}'"
        )
    if config.label_min is not None and len(config.label_min) != config.num_labels:
        raise ValueError(
            f"`label_min`: expected one value per label ({config.num_labels}), found {len(config.label_min)}"
        )
    num_centers = 1 if config.problem_type == "regression" else config.num_labels
    return MMWFMHead(width, config.num_labels, num_centers, config.novelty_rank)


def classify(
    classifier: nn.Module, outputs: BaseModelOutputWithPooling, labels: torch.Tensor | None, config: PreTrainedConfig
) -> MMWFMClassifierOutput:
    """Logits of the pooled features (B, width), and with labels the loss.

    Args:
        labels: class indices of shape `(batch_size,)`, or for regression values of shape `(batch_size, num_labels)` in
            metres.

    Returns:
        `loss` (cross-entropy; for regression mean squared error on coordinates scaled to [-1, 1] by
        `config.label_min` and `config.label_max`), `logits` of shape `(batch_size, num_labels)`: class scores, or
        metres, and `novelty` `(batch_size,)` if `config.novelty_rank` is above 0.
    """
    logits = classifier(outputs.pooler_output)
    regression = config.problem_type == "regression"
    center, half_range = label_scale(logits, config) if regression else (0.0, 1.0)
    loss = None
    if labels is not None:
        check_labels(labels, logits, config)
        if regression:
            loss = nn.functional.mse_loss(logits.float(), ((labels - center) / half_range).float())
        else:
            loss = nn.functional.cross_entropy(logits.float(), labels)
    return MMWFMClassifierOutput(
        loss=loss,
        logits=logits * half_range + center if regression else logits,
        hidden_states=outputs.get("hidden_states"),
        attentions=outputs.get("attentions"),
        novelty=classifier.novelty(outputs.pooler_output) if config.novelty_rank else None,
    )


def label_scale(like: torch.Tensor, config: PreTrainedConfig):
    """Centre and half range in metres, `(num_labels,)` each; 0 and 1 without label limits."""
    if config.label_min is None:
        return 0.0, 1.0
    low, high = (like.new_tensor(limit) for limit in (config.label_min, config.label_max))
    return (low + high) / 2, (high - low) / 2


def check_labels(labels: torch.Tensor, logits: torch.Tensor, config: PreTrainedConfig):
    if config.problem_type == "regression":
        if labels.shape != logits.shape:
            raise ValueError(f"`labels`: expected shape {tuple(logits.shape)}, found {tuple(labels.shape)}")
    elif labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"`labels`: expected class indices of shape {tuple(logits.shape[:1])}, found "
            f"{tuple(labels.shape)} of {labels.dtype}; coordinates need `problem_type='regression'`"
        )
    elif not torch.compiler.is_compiling() and not (0 <= labels.min() and labels.max() < logits.shape[1]):
        raise ValueError(
            f"`labels`: expected classes 0 to {logits.shape[1] - 1}, found {labels.min()} to {labels.max()}"
        )
