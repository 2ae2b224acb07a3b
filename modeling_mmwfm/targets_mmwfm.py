"""What a labelled data set asks for: the target column, the head it needs, and how many of its labels are used."""

import numpy as np
from datasets import Dataset


def target_column(rows: Dataset) -> str:
    """ "position" or "label".

    Raises:
        ValueError: neither.
    """
    for column in ("position", "label"):
        if column in rows.column_names:
            return column
    raise ValueError(f"expected a column `label` or `position`, found {rows.column_names}")


def position_settings(positions: np.ndarray) -> dict:
    """Configuration of the head of (N, axes) metres: their box."""
    low, high = positions.min(0), positions.max(0)
    # An axis on which nothing moves (a constant height, a budget of one row) is given a box of 1 m.
    margin_m = np.where(low < high, 0.0, 0.5)
    return {
        "problem_type": "regression",
        "num_labels": positions.shape[1],
        "label_min": (low - margin_m).tolist(),
        "label_max": (high + margin_m).tolist(),
    }


def target_settings(rows: Dataset) -> tuple[str, dict]:
    """Target column of a task's training rows and the configuration of its head.

    Raises:
        ValueError: no target, or one class only.
    """
    column = target_column(rows)
    if column == "position":
        return column, position_settings(np.asarray(rows["position"][:], dtype=np.float64))
    names = rows.features["label"].names
    found = np.unique(np.asarray(rows["label"][:]))
    if len(found) < 2:
        raise ValueError(f"expected at least two classes in the training set, found {[names[i] for i in found]}")
    return column, {
        "problem_type": "single_label_classification",
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
    }


def draw_rows(targets: np.ndarray, samples_per_class: int | None, seed: int) -> np.ndarray:
    """Rows of a label budget: that many of each class, or of positions in all; None and small classes: every row.

    They follow from `seed` alone, so that all models learn from the same rows, and a larger budget holds a smaller one.

    Args:
        targets: (N,) classes or (N, axes) positions.

    Raises:
        ValueError: a budget below 1.
    """
    if samples_per_class is None:
        return np.arange(len(targets))
    if samples_per_class < 1:
        raise ValueError(f"`samples_per_class`: expected at least 1, found {samples_per_class}")
    order = np.random.default_rng(seed).permutation(len(targets))
    classes = np.zeros(len(targets), int) if targets.ndim > 1 else targets
    drawn = [order[classes[order] == number][:samples_per_class] for number in np.unique(classes)]
    return np.sort(np.concatenate(drawn))


def draw_labels(rows: Dataset, samples_per_class: int | None, seed: int) -> Dataset:
    """The rows of `draw_rows`."""
    if samples_per_class is None:
        return rows
    return rows.select(draw_rows(np.asarray(rows[target_column(rows)][:]), samples_per_class, seed))
