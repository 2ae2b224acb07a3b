"""The head of every model here: one linear layer on pooled features -> classes, or coordinates in metres."""

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput


def make_classifier(config: PreTrainedConfig, width: int) -> nn.Linear:
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
    return nn.Linear(width, config.num_labels)


def classify(
    classifier: nn.Module, outputs: BaseModelOutputWithPooling, labels: torch.Tensor | None, config: PreTrainedConfig
) -> ImageClassifierOutput:
    """Logits of the pooled features (B, width), and with labels the loss.

    Args:
        labels: class indices of shape `(batch_size,)`, or for regression values of shape `(batch_size, num_labels)` in
            metres.

    Returns:
        `loss` (cross-entropy; for regression mean squared error on coordinates scaled to [-1, 1] by
        `config.label_min` and `config.label_max`) and `logits` of shape `(batch_size, num_labels)`: class scores, or
        metres.
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
    return ImageClassifierOutput(
        loss=loss,
        logits=logits * half_range + center if regression else logits,
        hidden_states=outputs.get("hidden_states"),
        attentions=outputs.get("attentions"),
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
