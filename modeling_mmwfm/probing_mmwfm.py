"""What frozen features hold: a linear probe and nearest neighbours on the pooled output of an encoder."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.preprocessing import StandardScaler
from transformers import AutoConfig, AutoModel

from .baselines_mmwfm import choose_strength, count_labels, fit_model, make_linear
from .data_collator_mmwfm import MMWFMDataCollator
from .evaluation_mmwfm import score
from .files_mmwfm import write_json
from .finetuning_mmwfm import task_config
from .frozen_features_mmwfm import compute_features
from .processing_mmwfm import MMWFMProcessor, check_iq_views
from .targets_mmwfm import draw_rows, target_column

PROBE_FILE = "probe_results.json"
NUM_NEIGHBORS = 5
NO_VOTE = np.log(0.01)  # of a class without a neighbour; minus infinity would let one window overrule its recording


@dataclass
class ProbeArguments:
    """How frozen features are measured."""

    output_dir: str = field(metadata={"help": "folder for probe_results.json"})
    pooling: str | None = field(default=None, metadata={"help": "cls, mean or mean_std; default: the checkpoint's"})
    random_encoder: bool = field(
        default=False, metadata={"help": "fresh weights of the checkpoint's configuration, drawn by seed: the control"}
    )
    iq_views: list[str] | None = field(
        default=None,
        metadata={
            "help": "what is made of IQ: iq, spectrogram or both, which are then one joint input; default: the processor's"
        },
    )
    carrier_shift: float = field(default=0.0, metadata={"help": "random carrier shift, share of the sampling rate"})
    shift_copies: int = field(default=1, metadata={"help": "of each training row, under carrier shifts of their own"})
    samples_per_class: int | None = field(
        default=None, metadata={"help": "label budget, drawn by seed: rows of each class; of positions, in all"}
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "the first, if they draw nothing"})
    batch_size: int = 64

    def __post_init__(self):
        for name in ("batch_size", "shift_copies"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}`: expected at least 1, found {getattr(self, name)}")
        if self.iq_views is not None:
            check_iq_views(self.iq_views)
        if self.shift_copies > 1 and not self.carrier_shift:
            raise ValueError(f"`shift_copies`: expected 1 without `carrier_shift`, found {self.shift_copies}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"`seeds`: expected at least one and each once, found {self.seeds}")


def repeated_classes(labels: np.ndarray, recordings: np.ndarray) -> list[int]:
    """Classes with at least two recordings: recall of one alone says more about the recording than about the class."""
    return [int(c) for c in np.unique(labels) if len(np.unique(recordings[labels == c])) > 1]


def score_classes(logits: np.ndarray, labels: np.ndarray, recordings: np.ndarray) -> dict[str, float]:
    """`balanced_accuracy` over the classes of at least two recordings (left out if there are none) and
    `balanced_accuracy_all` over all classes present; both as `recording_...` of whole recordings, too, each classified
    by the mean log-probability of its windows, unless some recording has windows of several classes.

    Args:
        logits: (N, num_labels) log-probabilities. labels, recordings: (N,).
    """
    is_scored = np.isin(labels, repeated_classes(labels, recordings))
    _, first, number = np.unique(recordings, return_index=True, return_inverse=True)
    units = {"": (logits, labels, is_scored)}
    if np.array_equal(labels[first][number], labels):
        sums = np.zeros((len(first), logits.shape[1]))
        np.add.at(sums, number, logits)  # their largest is that of the mean
        units["recording_"] = (sums, labels[first], is_scored[first])
    found = {}
    for prefix, (values, truth, scored) in units.items():
        name = f"{prefix}balanced_accuracy"
        found[f"{name}_all"] = score(values, truth, False)["mean_class_accuracy"]
        if scored.any():
            found[name] = score(values[scored], truth[scored], False)["mean_class_accuracy"]
    return found


def probe_features(
    splits: dict[str, Dataset], features: dict[str, np.ndarray], samples_per_class: int | None, seed: int
) -> dict:
    """Fit both probes to the training rows of a label budget and score them on the test split.

    Args:
        features: by split (N, copies, F), standardised.
    """
    column, num_labels = target_column(splits["train"]), count_labels(splits["train"])
    regression = column == "position"
    targets = {split: np.asarray(rows[column][:]) for split, rows in splits.items()}
    recordings = {split: np.asarray(rows["recording"][:]) for split, rows in splits.items()}
    rows = draw_rows(targets["train"], samples_per_class, seed)
    copies, width = features["train"].shape[1:]
    inputs = features["train"][rows].reshape(-1, width)
    truth, groups = (np.repeat(values["train"][rows], copies, axis=0) for values in (targets, recordings))
    validation = (features["validation"][:, 0], targets["validation"]) if "validation" in splits else None
    strength = choose_strength(inputs, truth, groups, num_labels, validation)
    neighbors = KNeighborsRegressor if regression else KNeighborsClassifier
    neighbors = neighbors(min(NUM_NEIGHBORS, len(inputs)), metric="cosine")
    models = {"linear": make_linear(regression, strength), "knn": neighbors}
    results = {"seed": seed, "trained_rows": len(rows), "inverse_strength": strength}
    for name, model in models.items():
        logits = fit_model(model, inputs, truth, num_labels)(features["test"][:, 0])
        if regression:
            results[name] = score(logits, targets["test"], True)
        else:
            logits = np.maximum(logits, NO_VOTE) if name == "knn" else logits
            results[name] = score_classes(logits, targets["test"], recordings["test"])
    return results


def probe(base: str, processor: MMWFMProcessor, splits: dict[str, Dataset], arguments, provenance=None) -> dict:
    """Measure frozen features of an encoder; the same call again returns what it found.

    Args:
        base: checkpoint folder or Hub name.
        splits: "train", "test" and, if there is one, "validation", in NumPy format, with a column `recording`.
        arguments: `ProbeArguments`.
        provenance: dict of what identifies the run beside `arguments`.

    Returns:
        content of `probe_results.json`: `run`, `num_features`, `per_seed` with the numbers of "linear" and "knn", their
        `mean` and, of several seeds, `std` (over n - 1); of classes `scored_classes`, those of `balanced_accuracy`.

    Raises:
        ValueError: splits, columns or a checkpoint that cannot be probed, or a folder with results of another run.
    """
    path = Path(arguments.output_dir) / PROBE_FILE
    run = json.loads(json.dumps({"base": str(base), **vars(arguments), **(provenance or {})}))
    del run["output_dir"], run["batch_size"]
    if path.is_file():
        results = json.loads(path.read_text())
        if (found := results["run"]) != run:
            changed = sorted(key for key in found.keys() | run.keys() if found.get(key) != run.get(key))
            raise ValueError(f"expected {path} to be absent or of the same arguments, other: {changed}")
        return results
    if (Path(base) / "adapter_config.json").is_file():
        raise ValueError(f"expected a checkpoint, found an adapter in {base}")
    if not {"train", "test"} <= set(splits):
        raise ValueError(f"expected splits train and test, found {sorted(splits)}")
    splits = {split: splits[split] for split in ("train", "validation", "test") if split in splits}
    if bad := [split for split, rows in splits.items() if "recording" not in rows.column_names]:
        raise ValueError(f"expected a column `recording`, found none in {bad}")
    processor.iq_views = arguments.iq_views or processor.iq_views
    column, _, config = task_config(base, splits["train"], arguments.pooling, processor.iq_views)
    collator = MMWFMDataCollator(processor, arguments.carrier_shift)
    own_channels = getattr(AutoConfig.from_pretrained(base), "input_channels", None)  # an adapter it lacks is drawn
    is_drawn = arguments.random_encoder or getattr(config, "input_channels", None) != own_channels
    features, scaler, per_seed = {}, StandardScaler(), []
    for seed in arguments.seeds if is_drawn or arguments.samples_per_class else arguments.seeds[:1]:
        if is_drawn or not features:
            torch.manual_seed(seed)
            fresh = arguments.random_encoder
            model = AutoModel.from_config(config) if fresh else AutoModel.from_pretrained(base, config=config)
            model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
            for split, rows in splits.items():  # training rows come first
                copies = arguments.shift_copies if split == "train" else 1
                values = compute_features(model, rows, collator, arguments.batch_size, copies)
                flat = values.reshape(-1, values.shape[-1])
                if split == "train":
                    scaler.fit(flat)
                features[split] = scaler.transform(flat).reshape(values.shape)
        per_seed.append(probe_features(splits, features, arguments.samples_per_class, seed))
    results = {"run": run, "num_features": features["test"].shape[-1], "per_seed": per_seed}
    if column == "label":
        labels, recordings = (np.asarray(splits["test"][name][:]) for name in ("label", "recording"))
        names = splits["test"].features["label"].names
        results["scored_classes"] = [names[c] for c in repeated_classes(labels, recordings)]
    tables = {kind: pd.DataFrame([numbers[kind] for numbers in per_seed]) for kind in ("linear", "knn")}
    results["mean"] = {kind: table.mean().to_dict() for kind, table in tables.items()}
    results["std"] = {kind: table.std().dropna().to_dict() for kind, table in tables.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, results)
    return results
