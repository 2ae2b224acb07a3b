"""Cells of a grid: one number each, of a model that was adapted to a task by a regime with so many labels and a seed."""

import time
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import AutoConfig, AutoModel

from .baselines_mmwfm import count_labels, write_results
from .data_collator_mmwfm import MMWFMDataCollator, load_splits
from .finetuning_mmwfm import FinetuningArguments, finetune, task_config
from .fitted_heads_mmwfm import fit_head, group_column
from .frozen_features_mmwfm import compute_features
from .image_processing_mmwfm import MMWFMImageProcessor
from .inputs_mmwfm import InputArguments, adapt_processor
from .processing_mmwfm import MMWFMProcessor
from .targets_mmwfm import draw_rows, target_column

RANDOM_ENCODER, HAND_FEATURES = "random encoder", "hand features"
LINEAR = "linear on hand features"
PREDICTIONS_FILE = "test_predictions.npz"


@dataclass(frozen=True)
class Task:
    """A labelled data set and how models are adapted to it.

    Args:
        families: input families, "iq", "image".
        rows_of_class: training rows of the largest class; of a regression, all.
        settings: fields of `FinetuningArguments`.
    """

    name: str
    dataset: str
    families: tuple[str, ...]
    regression: bool
    rows_of_class: int
    settings: dict


@dataclass(frozen=True)
class Cell:
    """One number with its predictions: a model adapted to a task by a regime with so many labels and a seed."""

    task: str
    model: str
    regime: str
    samples_per_class: int | None
    seed: int

    @property
    def name(self) -> str:
        budget = "all" if self.samples_per_class is None else self.samples_per_class
        return f"{self.task}/{self.model}-{self.regime}-{budget}-{self.seed}".replace(" ", "_")


def cell_folder(output_dir: Path, cell: Cell) -> Path:
    return output_dir / "cells" / cell.name


def prepare_inputs(task: Task, model: str, folder: Path) -> Path:
    """The model's processor, fitted once to the task's training split, in a folder."""
    if not (folder / "processor_config.json").is_file():
        options = {name: task.settings.get(name) for name in InputArguments.__dataclass_fields__}
        processor = MMWFMProcessor.from_pretrained(model)
        adapt_processor(processor, InputArguments(**options), load_splits(task.dataset)["train"])
        processor.save_pretrained(folder)
    return folder


def take_views(
    splits: dict[str, datasets.Dataset], processor: MMWFMProcessor
) -> tuple[dict[str, datasets.Dataset], MMWFMProcessor]:
    """Images in the processor's view and size once for all epochs, and the processor of what is left, normalisation.

    The model's input stays the same.
    """
    images, features = processor.image_processor, splits["train"].features
    if "image" not in features or images.size is None:
        return splits, processor
    channels, *shape = features["image"].shape
    size = images.size["height"], images.size["width"]
    if tuple(shape) == size and not images.takes_csi:
        return splits, processor
    features = features.copy()
    features["image"] = type(features["image"])(shape=(channels, *size), dtype="float32")
    settings = {"batched": True, "batch_size": 32, "features": features, "desc": "views"}
    # `datasets` keeps the result by its fingerprint, so that all cells of a task share it.
    seen = {
        split: rows.map(_view, fn_kwargs={"images": images.to_dict()}, **settings).with_format("numpy")
        for split, rows in splits.items()
    }
    statistics = {name: getattr(images, name) for name in ("image_min", "image_max", "image_mean", "image_std")}
    rest = MMWFMImageProcessor(size=images.size, normalization=images.normalization, **statistics)
    return seen, MMWFMProcessor(processor.feature_extractor, rest)


def _view(columns: dict, images: dict) -> dict:
    processor = MMWFMProcessor(image_processor=MMWFMImageProcessor.from_dict({**images, "normalization": "none"}))
    return {"image": MMWFMDataCollator(processor)(columns)["pixel_values"].numpy()}


def run_cell(cell: Cell, task: Task, model: str, processor: Path, folder: Path) -> None:
    """Adapt a model and score it; `finetune` leaves alone what is finished."""
    processor = MMWFMProcessor.from_pretrained(processor)
    splits, processor = take_views(load_splits(task.dataset), processor)
    fields = set(FinetuningArguments.__dataclass_fields__)
    if not hasattr(AutoConfig.from_pretrained(model), "pooling"):
        fields.discard("pooling")  # of the task's recipe; IQFM has one of its own
    arguments = FinetuningArguments(
        **{name: value for name, value in task.settings.items() if name in fields},
        output_dir=str(folder),
        regime=cell.regime,
        random_encoder=cell.model == RANDOM_ENCODER,
        samples_per_class=cell.samples_per_class,
        results_only=True,
        seed=cell.seed,
    )
    finetune(model, processor, splits, arguments, provenance={"dataset": task.dataset})


def run_probes(cells: list[Cell], task: Task, model: str, processor: Path, output_dir: Path) -> None:
    """Heads fitted to the features of one encoder, which are computed once for all budgets and seeds."""
    splits = load_splits(task.dataset)
    features, feature_seconds = probed_features(cells[0], task, model, processor, output_dir)
    column = target_column(splits["train"])
    targets = {split: np.asarray(splits[split][column][:]) for split in features}
    groups, num_labels = group_column(splits["train"]), count_labels(splits["train"])
    for cell in cells:
        rows = draw_rows(targets["train"], cell.samples_per_class, cell.seed)
        began = time.perf_counter()
        head = fit_head(features["train"][rows], targets["train"][rows], groups[rows], num_labels)
        seconds = {"seconds": time.perf_counter() - began, "feature_seconds": feature_seconds}
        logits = {split: features[split] @ head.weight.T + head.bias for split in ("validation", "test")}
        facts = {"trained_rows": len(rows), "trained_parameters": head.weight.size + head.bias.size, **seconds}
        write_results(cell_folder(output_dir, cell), logits, targets, facts)


def probed_features(
    cell: Cell, task: Task, model: str, processor: Path, output_dir: Path
) -> tuple[dict[str, np.ndarray], float]:
    """Features (N, F) of every split under the encoder of a cell, and the seconds that they took; kept in a file."""
    weights = f"{cell.model}-{cell.seed}" if cell.model == RANDOM_ENCODER else cell.model
    path = output_dir / "features" / f"{cell.task}-{weights}.npz".replace(" ", "_")
    if path.is_file():
        with np.load(path) as archive:
            found = dict(archive)
        return found, float(found.pop("seconds"))
    processor = MMWFMProcessor.from_pretrained(processor)
    splits, processor = take_views(load_splits(task.dataset), processor)
    processor.iq_views = task.settings.get("iq_views") or processor.iq_views
    began = time.perf_counter()
    encoder = probed_encoder(cell, task, model, splits["train"], processor)
    collator = MMWFMDataCollator(processor, task.settings.get("carrier_shift", 0.0))
    found = {
        split: compute_features(encoder, splits[split], collator)[:, 0] for split in ("train", "validation", "test")
    }
    seconds = time.perf_counter() - began
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    np.savez(unfinished, **found, seconds=seconds)
    unfinished.replace(path)
    return found, seconds


def probed_encoder(cell: Cell, task: Task, model: str, train: datasets.Dataset, processor: MMWFMProcessor):
    """Frozen, of the checkpoint or with fresh weights drawn by the cell's seed."""
    has_pooling = hasattr(AutoConfig.from_pretrained(model), "pooling")
    pooling = task.settings.get("pooling") if has_pooling else None
    _, _, config = task_config(model, train, pooling, processor.iq_views)
    torch.manual_seed(cell.seed)
    fresh = cell.model == RANDOM_ENCODER
    encoder = AutoModel.from_config(config) if fresh else AutoModel.from_pretrained(model, config=config)
    return encoder.eval().to("cuda" if torch.cuda.is_available() else "cpu")
