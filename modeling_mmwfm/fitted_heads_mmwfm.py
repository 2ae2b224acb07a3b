"""Heads that are fitted to frozen features instead of trained: a linear layer, and where its training rows lie."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from sklearn.covariance import ledoit_wolf
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits
from torch import nn
from transformers import PreTrainedModel

from .baselines_mmwfm import NUM_FOLDS, choose_strength, make_linear
from .frozen_features_mmwfm import FeatureRows, as_features
from .task_head_mmwfm import MMWFMHead

NOVELTY_RANK = 32
NOVELTY_ROWS = 2000  # of the training split, whose features a head remembers
INSIDE = 0.99  # of rows held out of the training rows


@dataclass(frozen=True)
class FittedHead:
    """`weight` (num_labels, F) and `bias` (num_labels,) of features as they are: class scores, or metres."""

    weight: np.ndarray
    bias: np.ndarray
    inverse_strength: float


def fit_head(
    features: np.ndarray, targets: np.ndarray, groups: np.ndarray, num_labels: int | None = None
) -> FittedHead:
    """Logistic regression, or for positions ridge regression, on standardised features, folded into one linear layer.

    The strength is chosen by cross-validation over the training rows alone, whole groups held out.

    Args:
        features: (N, F). targets: (N,) classes or (N, axes) metres. groups: (N,) what stays together.
        num_labels: classes, where the targets may lack some; these get a score that is never the largest.

    Raises:
        ValueError: one class alone.
    """
    regression = targets.ndim > 1
    num_labels = num_labels or (targets.shape[1] if regression else int(targets.max()) + 1)
    if not regression and len(np.unique(targets)) < 2:
        raise ValueError(f"expected rows of at least two classes, found {np.unique(targets).tolist()} alone")
    mean, std = features.mean(0, dtype=np.float64), spread(features)
    rows = (features - mean) / std
    # In the space that the rows span, which is the same problem of fewer unknowns where rows are few.
    directions = np.linalg.qr(rows.T)[0].T if len(rows) < rows.shape[1] else np.eye(rows.shape[1])
    reduced = rows @ directions.T
    strength = choose_strength(reduced, targets, groups, num_labels)
    with threadpool_limits(1):
        model = make_linear(regression, strength).fit(reduced, targets)
    weight, bias = np.atleast_2d(model.coef_) @ directions, np.atleast_1d(model.intercept_)
    if not regression:
        if len(weight) == 1:  # of two classes one score: its halves say the same in a softmax
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        present, known = model.classes_, (weight, bias)
        weight, bias = np.zeros((num_labels, weight.shape[1])), np.full(num_labels, -1e4)
        weight[present], bias[present] = known
    weight = weight / std
    return FittedHead(weight, bias - weight @ mean, strength)


def spread(features: np.ndarray) -> np.ndarray:
    """Standard deviation by feature (F,); of features that hardly vary a bound below which nothing is divided by."""
    std = features.std(0, dtype=np.float64)
    return np.maximum(std, 1e-3 * max(float(std.mean()), 1e-6))


def set_head(model: PreTrainedModel | PeftModel, head: FittedHead):
    """Make it the classifier of a model with as many labels; metres become the box of the configuration."""
    weight, bias = torch.from_numpy(head.weight), torch.from_numpy(head.bias)
    if model.config.problem_type == "regression" and model.config.label_min is not None:
        low, high = (bias.new_tensor(limit) for limit in (model.config.label_min, model.config.label_max))
        half_range = (high - low) / 2
        weight, bias = weight / half_range[:, None], (bias - (low + high) / 2) / half_range
    with torch.no_grad():
        for classifier in classifiers(model):
            classifier.weight.copy_(weight)
            classifier.bias.copy_(bias)


def classifiers(model: nn.Module) -> list[MMWFMHead]:
    """The head, and in an adapter also the base's."""
    return [module for module in model.modules() if isinstance(module, MMWFMHead)]


def fit_novelty(
    features: np.ndarray, targets: np.ndarray, groups: np.ndarray, num_labels: int, held_out: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The buffers of an `MMWFMHead` that knows these rows.

    Args:
        features, targets, groups: as of `fit_head`; positions have one centre.
        held_out: features of rows that the encoder was not trained on, which set the unit; None: the training rows,
            whole groups held out in turn.
    """
    targets = targets if targets.ndim == 1 else np.zeros(len(targets), int)
    ground, distances = make_ground(features, targets, num_labels), []
    num_folds = min(NUM_FOLDS, len(np.unique(groups)))
    if held_out is None and num_folds > 1:
        for kept, out in GroupKFold(num_folds).split(features, groups=groups):
            if len(kept) > 1:  # one row has no spread
                distances.append(distance(features[out], make_ground(features[kept], targets[kept], num_labels)))
    if not distances:
        distances = [distance(features if held_out is None else held_out, ground)]
    unit = max(float(np.quantile(np.concatenate(distances), INSIDE)), 1e-6)
    return ground | {"scale": ground["scale"] / unit}


def make_ground(features: np.ndarray, targets: np.ndarray, num_labels: int) -> dict[str, np.ndarray]:
    """Centres and covariance of features as the buffers of an `MMWFMHead`, whose unit is one standard deviation.

    Where classes have less than two rows each on average, they have one centre together.
    """
    present, number = np.unique(targets, return_inverse=True)
    if len(features) < 2 * len(present):
        present, number = present[:1], np.zeros(len(features), int)
    means = np.stack([features[number == row].mean(0, dtype=np.float64) for row in range(len(present))])
    std = spread(features)
    with threadpool_limits(1):
        covariance, _ = ledoit_wolf((features - means[number]) / std, assume_centered=True)
        variances, directions = np.linalg.eigh(covariance)
    rank = min(NOVELTY_RANK, features.shape[1] - 1)
    rest = max(float(variances[:-rank].mean()), 1e-6)
    shrink = np.sqrt(np.maximum(1 - rest / np.maximum(variances[-rank:], rest), 0))
    centers = means[np.zeros(num_labels, int)]  # a class without rows lies where another one does
    centers[present] = means
    return {
        "centers": centers,
        "scale": 1 / (std * np.sqrt(rest)),
        "basis": shrink[:, None] * directions[:, -rank:].T,
    }


def distance(features: np.ndarray, ground: dict[str, np.ndarray]) -> np.ndarray:
    """`MMWFMHead.novelty` of features (N, F)."""
    parts = {name: torch.from_numpy(np.asarray(values, dtype=np.float32)) for name, values in ground.items()}
    head = MMWFMHead(features.shape[1], 1, len(parts["centers"]), len(parts["basis"]))
    head.load_state_dict(parts, strict=False)
    return head.novelty(torch.from_numpy(np.asarray(features, dtype=np.float32))).numpy()


def set_novelty(model: PreTrainedModel | PeftModel, ground: dict[str, np.ndarray]):
    """Let the head of a model know its training rows."""
    model.config.novelty_rank = len(ground["basis"])
    for classifier in classifiers(model):
        for name, values in ground.items():
            classifier.register_buffer(name, torch.from_numpy(values).to(classifier.weight))


def columns_of(features: FeatureRows, rows: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, targets and groups of rows, as `fit_head` takes them."""
    return features.columns["features"].numpy(), features.columns["labels"].numpy(), group_column(rows)


def group_column(rows: Dataset) -> np.ndarray:
    """(N,) what stays together: the group, else the recording, else each row for itself."""
    group = next((column for column in ("group", "recording") if column in rows.column_names), None)
    return np.arange(len(rows)) if group is None else np.asarray(rows[group][:])


def features_of(model, splits: dict[str, Dataset], collator, batch_size: int) -> dict[str, FeatureRows]:
    """As the encoder sees them now, with its adapters."""
    whole = model.get_base_model() if isinstance(model, PeftModel) else model
    return as_features(whole, splits, collator, batch_size)


def learn_novelty(model, rows: dict, train: Dataset, collator, batch_size: int, is_frozen: bool):
    """Let the head know where the features of its training rows lie; of many rows a part, evenly spread.

    What counts as inside follows from the validation rows, which nothing was trained on; a fitted head's encoder knows
    none of the rows.
    """
    found = rows
    if not isinstance(rows["train"], FeatureRows):
        train = train.select(range(0, len(train), math.ceil(len(train) / NOVELTY_ROWS)))
        found = features_of(model, {"train": train, "validation": rows["validation"]}, collator, batch_size)
    features, targets, groups = columns_of(found["train"], train)
    held_out = None if is_frozen else found["validation"].columns["features"].numpy()
    num_labels = 1 if model.config.problem_type == "regression" else model.config.num_labels
    set_novelty(model, fit_novelty(features, targets, groups, num_labels, held_out))
