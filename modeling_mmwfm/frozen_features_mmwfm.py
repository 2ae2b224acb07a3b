"""Features of an encoder that does not train: computed once, then the head trains on them in every epoch."""

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .data_collator_mmwfm import MMWFMDataCollator
from .task_head_mmwfm import MMWFMClassifierOutput, classify


@torch.no_grad()
def compute_features(
    model: PreTrainedModel, rows: Dataset, collator: MMWFMDataCollator, batch_size: int = 64, copies: int = 1
) -> np.ndarray:
    """Pooled output (rows, copies, F) float32; NaN or Inf in it is a ValueError. The first copy is shifted as in every
    evaluation, the others by draws that follow from their number alone."""
    draws = [None] + [np.random.default_rng(copy).uniform(-1, 1, len(rows)) for copy in range(1, copies)]
    parts = []
    for start in tqdm(range(0, len(rows), batch_size), desc="features", leave=False):
        part = slice(start, start + batch_size)
        columns, found = rows[part], []
        for values in draws:
            batch = collator(columns, None if values is None else values[part])
            batch = {key: value.to(model.device) for key, value in batch.items()}
            found.append(model(**batch).pooler_output.float().cpu().numpy())
        parts.append(np.stack(found, axis=1))
    features = np.concatenate(parts)
    if bad := int((~np.isfinite(features)).any((1, 2)).sum()):
        raise ValueError(f"expected finite features, found NaN or Inf in {bad} of {len(rows)} rows")
    return features


def trains_head_alone(model: nn.Module) -> bool:
    """Then its features stay the same: frozen batch norms keep their statistics, and there is no dropout."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return all(name.startswith("classifier.") for name in trained)


class Head(nn.Module):
    """The head of a model, as a model of features. It shares the parameters: what it learns, the whole has learned."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.classifier, self.config = model.classifier, model.config

    def forward(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> MMWFMClassifierOutput:
        """(B, F) and labels -> what the whole model gives for the inputs behind them."""
        outputs = BaseModelOutputWithPooling(pooler_output=features.to(self.classifier.weight.dtype))
        return classify(self.classifier, outputs, labels, self.config)


class FeatureRows(torch.utils.data.Dataset):
    """Features (rows, F) and labels (rows, ...) of a split. Several rows at once are a batch already."""

    def __init__(self, features: torch.Tensor, labels: torch.Tensor):
        self.columns = {"features": features, "labels": labels}

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def __getitem__(self, index) -> dict[str, torch.Tensor]:
        return {name: values[index] for name, values in self.columns.items()}

    __getitems__ = __getitem__  # by which torch's loaders ask for a batch


def as_features(
    model: PreTrainedModel, splits: dict[str, Dataset], collator: MMWFMDataCollator, batch_size: int
) -> dict[str, FeatureRows]:
    """Every row of all splits through the encoder, once.

    Args:
        model: with a head; it is moved to the device on which it trains.
        collator: with a label column.
    """
    encoder = model.to(PartialState().device).eval().base_model
    inputs = MMWFMDataCollator(collator.processor, collator.carrier_shift, views=collator.views)
    found = {}
    for split, rows in splits.items():
        features = torch.from_numpy(compute_features(encoder, rows, inputs, batch_size)[:, 0])
        found[split] = FeatureRows(features, torch.as_tensor(np.asarray(rows[collator.label_column][:])))
    return found
