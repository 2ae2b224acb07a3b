"""Sets of a few rows that a tiny model learns in seconds, and that model."""

from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from modeling_mmwfm import (
    MMWFMConfig,
    MMWFMFeatureExtractor,
    MMWFMForPreTraining,
    MMWFMImageProcessor,
    MMWFMProcessor,
)
from modeling_mmwfm import pretraining_mmwfm as pretraining
from processing.schema import image_features, iq_features

PRESETS = Path(__file__).parents[1] / "configuration" / "models"
SMALL_IMAGES = {"height": 32, "width": 32}


def common(row, split):
    return {
        "recording": f"{split}{row}",
        "group": f"{split}{row}",
        "split": split,
        "sampling_rate_hz": 1e6,
        "center_frequency_hz": 0.0,
        "start": 0,
        "parameters": "{}",
        "source": "test",
    }


def tone_rows(count, split, seed):
    """Two classes: a tone of positive or of negative frequency in noise."""
    generator = np.random.default_rng(seed)
    rows = []
    for row in range(count):
        frequency = (0.05 if row % 2 else -0.05) * generator.uniform(0.8, 1.2)
        signal = np.exp(2j * np.pi * (frequency * np.arange(128) + generator.random()))
        signal = signal + 0.1 * (generator.standard_normal(128) + 1j * generator.standard_normal(128))
        iq = np.stack([signal.real, signal.imag], -1)[None].astype(np.float32)
        rows.append({"iq": iq, "label": row % 2, **common(row, split)})
    return Dataset.from_list(rows, features=iq_features(1, 128, ["negative", "positive"])).with_format("numpy")


def image_rows(count, split, seed):
    """A bright column whose place gives the position in metres."""
    generator = np.random.default_rng(seed)
    rows = []
    for row in range(count):
        place = generator.integers(0, 32)
        image = 0.1 * generator.standard_normal((1, 32, 32))
        image[0, :, place] += 2
        rows.append({"image": image.astype(np.float32), "position": [10.0 * place], **common(row, split)})
    return Dataset.from_list(rows, features=image_features(1, 32, 32, position_axes=["x"])).with_format("numpy")


def tiny_processor():
    return MMWFMProcessor(MMWFMFeatureExtractor(), MMWFMImageProcessor(size=SMALL_IMAGES))


def tiny_pretraining_model():
    torch.manual_seed(0)
    return MMWFMForPreTraining(MMWFMConfig.from_pretrained(PRESETS / "tiny"))


def pretraining_arguments(folder, **changes):
    settings = dict(num_train_epochs=15, warmup_epochs=1, batch_size=8, save_epochs=2, logging_steps=1, eval_epochs=5)
    settings |= dict(base_learning_rate=0.1, mixed_precision="no")  # the same numbers on every machine
    return pretraining.PretrainingArguments(output_dir=str(folder), **{**settings, **changes})


def run_pretraining(folder, **changes):
    train = {"iq": tone_rows(24, "train", 0), "image": image_rows(16, "train", 1)}
    validation = {"iq": tone_rows(6, "validation", 2), "image": image_rows(6, "validation", 3)}
    return pretraining.pretrain(
        tiny_pretraining_model(), tiny_processor(), train, validation, pretraining_arguments(folder, **changes)
    )
