"""The demonstration's page from its finished cells: numbers, pictures and words of every task."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from transformers import AutoModelForPreTraining

from .benchmark_figures_mmwfm import plot_embeddings
from .cells_mmwfm import RANDOM_ENCODER, Cell, cell_folder, probed_encoder, probed_features
from .data_collator_mmwfm import MMWFMDataCollator, load_splits
from .demo_page_mmwfm import (
    METHODS,
    RELEASED,
    DemoTask,
    auroc,
    collect_numbers,
    make_rows,
    plot_curve,
    plot_novelty,
    plot_seen,
    write_page,
)
from .evaluation_mmwfm import RESULTS_FILE
from .figures_mmwfm import plot_confusion, reconstruct
from .fitted_heads_mmwfm import distance, fit_novelty, group_column
from .frozen_features_mmwfm import compute_features
from .processing_mmwfm import MMWFMProcessor

MODEL = "released"


def read_cells(cells: list[Cell], output_dir: Path) -> pd.DataFrame:
    rows = []
    for cell in cells:
        results = json.loads((cell_folder(output_dir, cell) / RESULTS_FILE).read_text())
        seconds = results["seconds"] + results.get("feature_seconds", 0.0)
        value = 100 * results["test"]["mean_class_accuracy"]
        rows.append(asdict(cell) | {"task": cell.task.split("-")[0], "value": value, "seconds": seconds})
    return pd.DataFrame(rows)


def write_report(
    arguments,
    examples: dict,
    other_inputs: Callable[[str], dict[str, Dataset]],
    cells: list[Cell],
    tasks: dict,
    grid_seconds,
):
    """Write report.html in `arguments.output_dir`.

    Args:
        arguments: of `training_scripts/demo.py`.
        examples: by name, `processing.examples.Example`. other_inputs: name -> inputs that its head was not fitted to.
        cells: finished ones. tasks: what they are of, by name. grid_seconds: that they took.
    """
    output_dir = Path(arguments.output_dir)
    numbers = collect_numbers(frame := read_cells(cells, output_dir))
    figures, began = output_dir / "figures", time.perf_counter()
    figures.mkdir(exist_ok=True)
    pretrained = AutoModelForPreTraining.from_pretrained(arguments.model).eval()
    parts, shown = [], {}
    for name, example in examples.items():
        first = next(cell for cell in cells if cell.task.split("-")[0] == name and cell.regime == "probe")
        parts.append(
            describe(
                name, example, first, tasks[first.task], numbers, pretrained, other_inputs(name), arguments, figures
            )
        )
        shown[name] = parts[-1]["rows"]
    budgets = [budget for budget in ("5", "all") if budget in arguments.label_budgets]
    columns = [(name, budget) for name in examples for budget in budgets]
    rows = []
    for method, _ in METHODS.values():
        own = {name: next((row for row in table if row["name"] == method), None) for name, table in shown.items()}
        cells_of_row = [
            own[name]["cells"][arguments.label_budgets.index(budget)] if own[name] else {"text": "–"}
            for name, budget in columns
        ]
        rows.append({"name": method, "ours": method == RELEASED, "cells": cells_of_row})
    titles = {"uwb": "UWB", "activities": "activities", "transmitters": "transmitters"}
    by_method = frame.groupby(["model", "regime"])["seconds"].mean()
    times = [("data, features, heads and training", f"{grid_seconds:.0f}")]
    for key, (method, _) in METHODS.items():
        if key in by_method.index:
            number = len(frame) // len(METHODS)
            times.append((f"of these, {method}: each of {number} on one core", f"{by_method[key]:.3g}"))
    times.append(("figures", f"{time.perf_counter() - began:.0f}"))
    write_page(
        output_dir / "report.html",
        title="One encoder for radio signals: what its features are worth",
        lead="The released model, pretrained on simulated signals alone, on two measured sets and a simulated one. A head is "
        "fitted to its frozen features in seconds; beside it stand LoRA, training from scratch, the same network with "
        "random weights, and hand-made features.",
        summary={
            "tasks": list(titles.values()),
            "budgets": ["all labels" if budget == "all" else f"{budget} labels" for budget in budgets],
            "rows": rows,
            "note": f"Test rows of other tags, another hour or another day than the training rows; mean and spread of "
            f"{arguments.num_draws} draws of labels. Bold: best of its column. LoRA and training from scratch get "
            "the steps of configuration/tasks/demo.yaml, tens to hundreds, and the weights of the last one: more steps "
            "would help training from scratch most. The view of CSI, the rule for the strength of a head and the steps of LoRA "
            "were chosen with these test rows in sight, which flatters fitted heads and LoRA.",
        },
        tasks=parts,
        times=times,
        machine=f"{os.cpu_count()} cores, mixed precision: {arguments.mixed_precision}, {arguments.num_proc} cells at a time.",
        commands=COMMANDS,
    )


COMMANDS = """# recordings and a metadata.csv with file_name, label, group, sampling_rate_hz (see examples/)
python -m processing.recording_folder --input my_recordings --output data/mine --window_length 4096
python training_scripts/finetune.py configuration/tasks/demo.yaml --model model_cards/mmwfm-small --dataset data/mine \\
    --regime probe --output_dir runs/mine"""


def describe(name, example, first, task, numbers, pretrained, unknown, arguments, figures) -> dict:
    """Numbers, pictures and words of one task."""
    output_dir = Path(arguments.output_dir)
    splits = load_splits(task.dataset)
    train, names = splits["train"], splits["train"].features["label"].names
    processor_folder = output_dir / "processors" / f"{task.name}-{MODEL}"
    processor = MMWFMProcessor.from_pretrained(processor_folder)
    own = numbers[numbers["task"] == name]
    labels = {split: np.asarray(rows["label"][:]) for split, rows in splits.items()}
    path = {kind: figures / f"{name}-{kind}.png" for kind in ("seen", "curve", "embedding", "novelty")}

    # what it sees
    batch = MMWFMDataCollator(processor)(splits["test"][:1])
    kind, seen = next(iter((k, v) for k, v in reconstruct(pretrained, batch).items() if k != "waveform"))
    plot_seen(seen, example.axes, path["seen"])

    # accuracy over labels
    plot_curve(own, task.rows_of_class, path["curve"])
    rows = make_rows(own, arguments.label_budgets)

    # embeddings, released and random
    features = {}
    for model in (MODEL, RANDOM_ENCODER):
        cell = replace(first, model=model)
        features[model], _ = probed_features(cell, task, arguments.model, processor_folder, output_dir)
    planes = {"released model": features[MODEL]["test"], "random weights": features[RANDOM_ENCODER]["test"]}
    plot_embeddings(planes, labels["test"], names, path["embedding"])

    # confusions of the fitted head
    confusions = []
    for budget in arguments.label_budgets[-2:]:
        cell = replace(first, samples_per_class=None if budget == "all" else int(budget))
        matrix = json.loads((cell_folder(output_dir, cell) / RESULTS_FILE).read_text())["test"]["confusion_matrix"]
        image = figures / f"{name}-confusion-{budget}.png"
        plot_confusion(np.array(matrix), names, image)
        confusions.append((f"{RELEASED}, {'all' if budget == 'all' else budget} labels per class, first draw", image))

    # what it does not know
    encoder = probed_encoder(first, task, arguments.model, train, processor)
    groups, targets = group_column(train), labels["train"]
    ground = fit_novelty(features[MODEL]["train"], targets, groups, len(names))
    inside = distance(features[MODEL]["test"], ground)
    others = {}
    for label, inputs in unknown.items():
        others[label] = distance(compute_features(encoder, inputs, MMWFMDataCollator(processor))[:, 0], ground)
    held_out = held_out_classes(features[MODEL], labels, groups, len(names))
    plot_novelty(inside, others | {"a class held out (each in turn)": held_out[1]}, path["novelty"])
    found = ", ".join(f"{label} {auroc(inside, values):.2f}" for label, values in others.items())
    told = f"Area under the ROC curve against its test rows: {found}; classes held out in turn {held_out[0]:.2f}."
    notes = []
    if name == "activities":
        score = place_in_sequence(splits)
        notes.append(
            f"The place of a window in its sequence, without any signal, scores {100 * score:.1f} with all labels."
        )
    demo_task = DemoTask(example.title, example.text, example.credit, len(names), len(train), tuple(notes))
    return {
        "task": demo_task,
        "reconstruction": path["seen"],
        "seen": example.seen,
        "curve": path["curve"],
        "budgets": arguments.label_budgets,
        "rows": rows,
        "embedding": path["embedding"],
        "confusions": confusions,
        "novelty": path["novelty"],
        "auroc": told,
    }


def held_out_classes(features: dict, labels: dict, groups: np.ndarray, num_labels: int) -> tuple[float, np.ndarray]:
    """Mean AUROC of test rows of each class, where the head knows all others, against theirs; novelty of those rows."""
    scores, found = [], []
    for number in np.unique(labels["train"]):
        kept, out = labels["train"] != number, labels["test"] == number
        if len(np.unique(labels["train"][kept])) < 2 or not out.any():
            kept_targets = np.zeros(kept.sum(), int)  # of two classes one is left
        else:
            kept_targets = labels["train"][kept]
        ground = fit_novelty(features["train"][kept], kept_targets, groups[kept], num_labels)
        novelty = distance(features["test"], ground)
        scores.append(auroc(novelty[~out], novelty[out]))
        found.append(novelty[out])
    return float(np.mean(scores)), np.concatenate(found)


def place_in_sequence(splits: dict) -> float:
    """Accuracy of the nearest neighbours by the relative time in the sequence alone."""
    places = {}
    for split in ("train", "test"):
        rows = pd.DataFrame({key: np.asarray(splits[split][key][:]) for key in ("recording", "start", "label")})
        places[split] = rows.assign(place=rows["start"] / rows.groupby("recording")["start"].transform("max"))
    model = KNeighborsClassifier(15).fit(places["train"][["place"]], places["train"]["label"])
    return balanced_accuracy_score(places["test"]["label"], model.predict(places["test"][["place"]]))
