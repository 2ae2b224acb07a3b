"""The encoder in scikit-learn's manner: features of recordings, and heads that are fitted to them in seconds.

classifier = MMWFMClassifier("model_cards/mmwfm-small").fit(recordings, labels, groups=devices)
classifier.predict(others)
classifier.novelty(others)             # above 1: unlike the recordings that it was fitted to
classifier.save_pretrained("my_head")  # opens with `pipeline`, AutoModelForSequenceClassification and peft
"""

import hashlib
import os
import tempfile
from collections import OrderedDict
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoProcessor

from .cards_mmwfm import write_task_card
from .embed import load_encoder, local_folder
from .fitted_heads_mmwfm import FittedHead, distance, fit_head, fit_novelty, set_head, set_novelty
from .pipeline_mmwfm import pooled_features, read_item
from .processing_mmwfm import KINDS
from .publishing_mmwfm import publish
from .regimes_mmwfm import head_as_adapter
from .targets_mmwfm import position_settings

READ_BATCHES = 4  # that are in memory at once
NUM_KEPT = 2**17  # rows of features, of 2 kB each from an encoder of 256
_kept: OrderedDict[str, np.ndarray] = OrderedDict()  # features by what they are of: folds and clones share them
_encoders: OrderedDict[tuple, tuple] = OrderedDict()  # the last one


class MMWFMEmbedder(TransformerMixin, BaseEstimator):
    """Recordings -> pooled features of the frozen encoder.

    Recordings are a list of arrays of any lengths, of file names, or a column of a data set. Their features are computed
    once in a process and kept: cross-validation and grid searches cost no second pass.

    Args:
        model: folder or Hub name of a checkpoint, a fine-tuned model or an adapter.
        kind: "iq" (complex (T,) or (A, T), or real with a last axis of I and Q), "images" ((H, W), (C, H, W) or PIL) or
            "csi" ((antennas, subcarriers, packets), complex or amplitude). None: what the model was adapted to, else
            complex vectors are IQ, and a file is what its name says.
        sampling_rate_hz, packet_rate_hz, unit, views: of all recordings, see `MMWFMProcessor`.
        window_length: take so many samples (packets of CSI) from the middle of longer recordings.
        pooling: "cls", "mean" or "mean_std"; None: the checkpoint's.
        random_encoder: seed of fresh weights instead of the checkpoint's: the control.
        batch_size: recordings in one forward.
    """

    def __init__(
        self,
        model="model_cards/mmwfm-small",
        kind=None,
        sampling_rate_hz=None,
        packet_rate_hz=None,
        unit=None,
        views=None,
        window_length=None,
        pooling=None,
        random_encoder=None,
        batch_size=64,
    ):
        self.model = model
        self.kind = kind
        self.sampling_rate_hz = sampling_rate_hz
        self.packet_rate_hz = packet_rate_hz
        self.unit = unit
        self.views = views
        self.window_length = window_length
        self.pooling = pooling
        self.random_encoder = random_encoder
        self.batch_size = batch_size

    def fit(self, X, y=None):
        """Nothing is learned."""
        return self

    def __sklearn_is_fitted__(self):
        return True

    def transform(self, X) -> np.ndarray:
        """Features (N, hidden_size), with pooling "mean_std" (N, 2 * hidden_size), float32.

        Raises:
            ValueError: no recordings, or one that is not what it must be.
        """
        return self._features(X)

    def _features(self, X) -> np.ndarray:
        if self.kind not in (None, *KINDS):
            raise ValueError(f"`kind`: expected {', '.join(KINDS)} or None, found {self.kind!r}")
        items = list(X)
        if not items:
            raise ValueError("expected at least one recording, found none")
        settings = {name: getattr(self, name) for name in MMWFMEmbedder._get_param_names() if name != "batch_size"}
        settings["model"] = f"{self.model} {weights_of(self.model)}"
        keys = [f"{settings}{fingerprint(item)}" for item in items]
        missing = {key: item for key, item in zip(keys, items) if key not in _kept}
        found = dict(self._compute(missing)) if missing else {}
        for key in keys:
            if key not in found:
                found[key] = _kept[key]
        for key, features in found.items():
            _kept[key] = features
            _kept.move_to_end(key)
        while len(_kept) > NUM_KEPT:
            _kept.popitem(last=False)
        return np.stack([found[key] for key in keys])

    def _read(self, item):
        """An item -> "iq", "images" or "csi", its values, its rate."""
        _, processor = open_encoder(self.model, self.pooling, self.random_encoder)
        known = self.kind or processor.kind
        told = isinstance(item, (str, os.PathLike)) or hasattr(item, "getbands")  # by its name, or a picture
        is_complex = item.is_complex() if isinstance(item, torch.Tensor) else not told and np.iscomplexobj(item)
        if known is None and not told and not is_complex:
            raise ValueError(
                f"`kind`: expected {', '.join(KINDS)} beside real arrays, which may be any of them, found None"
            )
        kind, values, rate_hz = read_item(item, known, self.window_length, self.sampling_rate_hz)
        return kind, values, rate_hz if kind == "iq" else self.packet_rate_hz or rate_hz

    @torch.no_grad()
    def _compute(self, items: dict):
        """(key, features (F,)) of each item, in batches of like lengths."""
        model, processor = open_encoder(self.model, self.pooling, self.random_encoder)
        keys, size = list(items), READ_BATCHES * self.batch_size
        with tqdm(total=len(keys), desc="features", leave=False, disable=len(keys) <= self.batch_size) as progress:
            for first in range(0, len(keys), size):
                read = {key: self._read(items[key]) for key in keys[first : first + size]}
                for part in self._batches(read):
                    kind, _, rate_hz = read[part[0]]
                    options = {"unit": self.unit}
                    if kind == "iq":
                        options |= {"sampling_rate_hz": rate_hz, "views": self.views}
                    else:
                        options["packet_rate_hz"] = rate_hz
                    values = {kind: [read[key][1] for key in part]}
                    batch = processor(**values, **options).to(model.device)
                    yield from zip(part, pooled_features(model, batch).float().cpu().numpy())
                    progress.update(len(part))

    def _batches(self, read: dict) -> list[list]:
        """Keys of recordings of one kind and rate each, and of like shapes, so that little is padded."""

        def what(key):
            return read[key][0], read[key][2] or 0.0

        order = sorted(read, key=lambda key: (*what(key), np.shape(read[key][1])))
        groups = [list(group) for _, group in groupby(order, what)]
        return [group[i : i + self.batch_size] for group in groups for i in range(0, len(group), self.batch_size)]


class _FittedHeadMixin:
    """What classifier and regressor share."""

    def __sklearn_is_fitted__(self):
        return hasattr(self, "head_")

    def _fit(self, X, targets, groups, num_labels):
        X = list(X)
        features = self._features(X)
        self.kind_ = self._read(X[0])[0]
        if len(targets) != len(features):
            raise ValueError(f"expected a target for each of {len(features)} recordings, found {len(targets)}")
        groups = np.arange(len(features)) if groups is None else np.asarray(groups)
        if groups.shape != (len(features),):
            raise ValueError(f"`groups`: expected one for each of {len(features)} recordings, found {groups.shape}")
        self.head_: FittedHead = fit_head(features, targets, groups, num_labels)
        num_centers = 1 if targets.ndim > 1 else num_labels
        self.ground_ = fit_novelty(features, targets, groups, num_centers)
        return self

    def _scores(self, X) -> np.ndarray:
        check_is_fitted(self, "head_")
        return self._features(X) @ self.head_.weight.T + self.head_.bias

    def novelty(self, X) -> np.ndarray:
        """(N,): how far recordings lie outside of those that the head was fitted to; see `MMWFMHead`."""
        check_is_fitted(self, "head_")
        return distance(self._features(X), self.ground_)

    def save_pretrained(self, folder) -> Path:
        """Write head, processor and card as an adapter that names its base; it opens like any other.

        Raises:
            ValueError: not fitted, or to an encoder that is no checkpoint of its own.
        """
        check_is_fitted(self, "head_")
        is_adapter = (local_folder(str(self.model)) / "adapter_config.json").is_file()
        config = AutoConfig.from_pretrained(self.model)
        has_head = any("Classification" in name for name in config.architectures or [])
        if self.random_encoder is not None or is_adapter or has_head:
            raise ValueError(
                "expected the head of a checkpoint without one, which its folder can name, found one of fresh weights, an "
                "adapter or a fine-tuned model"
            )
        folder = Path(folder)
        config = AutoConfig.from_pretrained(self.model, **self._head_settings())
        if self.pooling is not None:
            config.pooling = self.pooling
        model = AutoModelForSequenceClassification.from_config(config)  # of which the head alone is written
        set_head(model, self.head_)
        set_novelty(model, self.ground_)
        model = head_as_adapter(model)
        model.peft_config["default"].base_model_name_or_path = str(self.model)
        model.config.save_pretrained(folder)
        model.save_pretrained(folder)
        processor = AutoProcessor.from_pretrained(self.model)
        processor.kind = self.kind_
        processor.iq_views = list(self.views or processor.iq_views)
        if self.kind_ == "iq" and self.sampling_rate_hz:
            processor.feature_extractor.sampling_rate_hz = float(self.sampling_rate_hz)
        if self.kind_ == "csi" and self.packet_rate_hz:
            processor.csi_processor.packet_rate_hz = float(self.packet_rate_hz)
        processor.save_pretrained(folder)
        head = {"trained_rows": self.num_rows_, "trained_parameters": self.head_.weight.size + self.head_.bias.size}
        write_task_card(folder, head, {"base": str(self.model), "regime": "probe"})
        return folder

    def push_to_hub(self, repo_id: str, **options) -> str:
        """Publish what `save_pretrained` writes; `options` as of `publish`, among them `base_model` for a local base.

        Returns:
            address of the commit.
        """
        with tempfile.TemporaryDirectory() as work:
            return publish(self.save_pretrained(Path(work) / repo_id.split("/")[-1]), repo_id, **options)


class MMWFMClassifier(_FittedHeadMixin, ClassifierMixin, MMWFMEmbedder):
    """A classifier on the frozen encoder: logistic regression on its features, standardised on the training rows.

    The strength is chosen by cross-validation over the training rows alone, whole `groups` held out. Arguments as of
    `MMWFMEmbedder`.
    """

    def fit(self, X, y, groups=None):
        """
        Args:
            X: recordings. y: (N,) labels. groups: (N,) what a recording belongs to (device, session, user ...).

        Raises:
            ValueError: one class alone, or unequal lengths.
        """
        self.classes_, targets = np.unique(np.asarray(y), return_inverse=True)
        if targets.ndim != 1 or np.ndim(y) != 1:
            raise ValueError(f"`y`: expected one label for each recording, found shape {np.shape(y)}")
        self.num_rows_ = len(targets)
        return self._fit(X, targets, groups, len(self.classes_))

    def decision_function(self, X) -> np.ndarray:
        """(N, classes) scores; of two classes (N,), positive for the second."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X) -> np.ndarray:
        """(N, classes)"""
        scores = self._scores(X)
        scores = np.exp(scores - scores.max(1, keepdims=True))
        return scores / scores.sum(1, keepdims=True)

    def predict(self, X) -> np.ndarray:
        """(N,) labels"""
        best = self._scores(X).argmax(1)
        return self.classes_[best]

    def _head_settings(self) -> dict:
        names = [str(name) for name in self.classes_.tolist()]
        return {
            "problem_type": "single_label_classification",
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
        }


class MMWFMRegressor(_FittedHeadMixin, RegressorMixin, MMWFMEmbedder):
    """Coordinates in metres, or other numbers, by ridge regression on the features of the frozen encoder.

    Arguments as of `MMWFMEmbedder`; strength and standardisation as of `MMWFMClassifier`.
    """

    def fit(self, X, y, groups=None):
        """
        Args:
            X: recordings. y: (N,) or (N, axes) numbers. groups: (N,), as of `MMWFMClassifier.fit`.
        """
        targets = np.asarray(y, dtype=np.float64)
        if targets.ndim not in (1, 2) or not np.isfinite(targets).all():
            raise ValueError(f"`y`: expected finite numbers of shape (N,) or (N, axes), found shape {targets.shape}")
        self.is_flat_, self.num_rows_ = targets.ndim == 1, len(targets)
        targets = targets.reshape(len(targets), -1)
        self.limits_ = position_settings(targets)
        return self._fit(X, targets, groups, targets.shape[1])

    def predict(self, X) -> np.ndarray:
        """(N,) or (N, axes), as `y` was."""
        values = self._scores(X)
        return values[:, 0] if self.is_flat_ else values

    def _head_settings(self) -> dict:
        return self.limits_


def open_encoder(name, pooling: str | None, random_encoder: int | None):
    """(model, processor); the last one stays open."""
    key = str(name), weights_of(name), pooling, random_encoder
    if key not in _encoders:
        _encoders.clear()
        model, processor = load_encoder(str(name))
        if random_encoder is not None:
            torch.manual_seed(random_encoder)
            model = AutoModel.from_config(model.config)
        if pooling is not None:
            model.config.pooling = pooling
            model.config.validate_architecture()
        model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        _encoders[key] = model, processor
    return _encoders[key]


def weights_of(name) -> str:
    """Sizes and times of what a folder holds: another model of the same name is another one. Of a Hub name nothing."""
    files = (path for path in Path(name).glob("*") if path.suffix in (".json", ".safetensors"))
    return str(sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files))


def fingerprint(item) -> str:
    """What an item is, for the features that are kept: content of an array, name, size and time of a file."""
    if isinstance(item, (str, os.PathLike)):
        path = Path(item)
        sigmf = path.suffix in (".sigmf-meta", ".sigmf-data")
        files = [path.with_suffix(suffix) for suffix in (".sigmf-meta", ".sigmf-data")] if sigmf else [path]
        stats = [file.stat() for file in files if file.exists()]  # what is missing is refused by the reader
        return str((str(path.resolve()), [(stat.st_size, stat.st_mtime_ns) for stat in stats]))
    if isinstance(item, torch.Tensor):
        item = item.detach().cpu().resolve_conj().resolve_neg()
        item = item.float() if item.dtype == torch.bfloat16 else item
    array = np.ascontiguousarray(item)
    return f"{array.dtype}{array.shape}{hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()}"
