"""Metrics of classification and localisation, for the `evaluate` library."""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

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
