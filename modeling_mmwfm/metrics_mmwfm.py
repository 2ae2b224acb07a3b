"""Metrics of classification and localisation, for the `evaluate` library."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

CITATION = "@article{mmwfm, title={Multimodal Wireless Foundation Models}, journal={arXiv:2511.15162}}"


class ClassificationReport(evaluate.Metric):
    """Mean per-class accuracy (balanced accuracy), accuracy, macro F1 and confusion matrix.

    Classes without references are left out of the mean per-class accuracy.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Accuracy by class, overall, macro F1 and confusion matrix (rows: true class).",
            citation=CITATION,
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, num_classes: int | None = None):
        predictions, references = np.asarray(predictions), np.asarray(references)
        labels = range(num_classes or int(max(predictions.max(), references.max())) + 1)
        matrix = confusion_matrix(references, predictions, labels=labels)
        count = matrix.sum(1)
        per_class = np.diag(matrix)[count > 0] / count[count > 0]
        present = np.unique(references)
        return {
            "mean_class_accuracy": float(per_class.mean()),
            "accuracy": float(accuracy_score(references, predictions)),
            "macro_f1": float(f1_score(references, predictions, labels=present, average="macro", zero_division=0)),
            "confusion_matrix": matrix.tolist(),
        }


class LocalizationError(evaluate.Metric):
    """Distance between predicted and true positions in metres: mean, median and 90th percentile."""

    def _info(self):
        position = datasets.List(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description="Localisation error in metres.",
            citation=CITATION,
            features=datasets.Features({"predictions": position, "references": position}),
        )

    def _compute(self, predictions, references):
        errors_m = np.linalg.norm(np.asarray(predictions) - np.asarray(references), axis=-1)
        return {
            "mean_error_m": float(errors_m.mean()),
            "median_error_m": float(np.median(errors_m)),
            "p90_error_m": float(np.percentile(errors_m, 90)),
        }


INTERFERENCE_NAMES = ("lte", "bpsk-dsss", "qpsk-dsss")


def interference_report(
    logits: np.ndarray, labels: np.ndarray, names: Sequence[str] = INTERFERENCE_NAMES
) -> dict[str, float]:
    """Detection and classification of interference, both read from one 3-way head.

    Args:
        logits: (N, 3) scores of any scale.
        labels: (N,) classes.
        names: of the classes: one with "bpsk", one with "qpsk", the third is the undisturbed signal.

    Returns:
        `intd_accuracy`: mean per-class accuracy of undisturbed against disturbed, by the largest of all three scores;
        `intc_accuracy`: that of BPSK against QPSK on the disturbed samples alone, by the larger of their two scores.

    Raises:
        ValueError: other classes, or some class without a sample.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    kinds = [[number for number, name in enumerate(names) if kind in name.lower()] for kind in ("bpsk", "qpsk")]
    if len(names) != 3 or [len(found) for found in kinds] != [1, 1] or logits.shape != (len(labels), 3):
        raise ValueError(
            f"expected logits (N, 3) of an undisturbed class, one with 'bpsk' and one with 'qpsk', found "
            f"{logits.shape} of {list(names)}"
        )
    if missing := sorted({0, 1, 2} - set(labels.tolist())):
        raise ValueError(f"expected samples of each class, found none of {[names[number] for number in missing]}")
    (bpsk,), (qpsk,) = kinds
    disturbed = np.isin(labels, [bpsk, qpsk])
    detected = np.isin(logits.argmax(1), [bpsk, qpsk])
    is_qpsk = logits[disturbed, qpsk] > logits[disturbed, bpsk]
    return {
        "intd_accuracy": float(balanced_accuracy_score(disturbed, detected)),
        "intc_accuracy": float(balanced_accuracy_score(labels[disturbed] == qpsk, is_qpsk)),
    }
