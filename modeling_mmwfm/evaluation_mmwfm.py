"""Predictions of an adapted model on a split, scored and drawn."""

import os
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from .figures_mmwfm import plot_confusion, plot_error_distribution
from .files_mmwfm import write_json
from .metrics_mmwfm import ClassificationReport, LocalizationError

RESULTS_FILE = "test_results.json"


@torch.no_grad()
def predict(model, rows: Dataset, collator, batch_size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Logits (rows, num_labels) and labels of a split, in order."""
    device = next(model.parameters()).device
    model.eval()
    logits, labels = [], []
    for start in tqdm(range(0, len(rows), batch_size), desc="evaluating", leave=False):
        batch = {key: value.to(device) for key, value in collator(rows[start : start + batch_size]).items()}
        labels.append(batch.pop("labels").cpu().numpy())
        logits.append(model(**batch).logits.float().cpu().numpy())
    return np.concatenate(logits), np.concatenate(labels)


def score(logits: np.ndarray, labels: np.ndarray, regression: bool) -> dict[str, float]:
    """The numbers of a result, without the confusion matrix."""
    result = report(logits, labels, regression)
    return {key: value for key, value in result.items() if isinstance(value, float)}


def report(logits: np.ndarray, labels: np.ndarray, regression: bool) -> dict:
    if regression:
        return LocalizationError(keep_in_memory=True).compute(predictions=logits, references=labels)
    return ClassificationReport(keep_in_memory=True).compute(
        predictions=logits.argmax(-1), references=labels, num_classes=logits.shape[-1]
    )


def write_predictions(folder: Path, split: str, logits: np.ndarray, labels: np.ndarray) -> None:
    """`<split>_predictions.npz`: `logits` (rows, num_labels), class scores or metres, and `labels`, in row order."""
    unfinished = folder / f".{split}_predictions.{os.getpid()}.npz"
    np.savez(unfinished, logits=logits, labels=labels)
    unfinished.replace(folder / f"{split}_predictions.npz")


def evaluate_task(
    model, rows: Dataset, collator, output_dir: str | Path, split: str, batch_size: int = 64, figures: bool = True
) -> dict:
    """Score one split; write `<split>_metrics.json`, `<split>_predictions.npz` and, if `figures`, a confusion matrix or
    distribution of errors (PNG)."""
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    regression = model.config.problem_type == "regression"
    logits, labels = predict(model, rows, collator, batch_size)
    result = {**report(logits, labels, regression), "rows": len(rows)}
    write_predictions(output_dir, split, logits, labels)
    if figures and regression:
        errors_m = np.linalg.norm(logits - labels, axis=-1)
        plot_error_distribution(errors_m, output_dir / f"{split}_error.png", f"{split}, {len(rows)} positions")
    elif figures:
        names = [model.config.id2label[number] for number in range(model.config.num_labels)]
        title = f"{split}: mean per-class accuracy {100 * result['mean_class_accuracy']:.1f} %"
        plot_confusion(np.asarray(result["confusion_matrix"]), names, output_dir / f"{split}_confusion.png", title)
    write_json(output_dir / f"{split}_metrics.json", result)
    return result
