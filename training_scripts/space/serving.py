"""The model behind the page: embedding, masked reconstruction, and the predictions of the adapters."""

import json
import logging
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from inputs import Signal
from transformers import AutoConfig, AutoModelForPreTraining, AutoProcessor

from modeling_mmwfm.adapters_mmwfm import MMWFMAdapters, fetch
from modeling_mmwfm.figures_mmwfm import reconstruct
from modeling_mmwfm.processing_mmwfm import OTHER_PACKET_RATE
from modeling_mmwfm.regimes_mmwfm import adapted_families

logger = logging.getLogger(__name__)

MAX_SAMPLES = 4096  # of IQ that the model sees, less of many antennas
MIN_FRAMES = 128  # of a spectrogram: of short recordings a shorter window gives them
MAX_TOKENS = 1024
MAX_RATE_RATIO = 100  # that a sampling rate is converted by
FAMILIES = {"iq": "iq", "image": "image", "csi": "image"}  # kind of a signal -> what the model takes it for
KINDS = {"iq": "iq", "image": "images", "csi": "csi"}  # -> what the processor calls it


@dataclass(frozen=True)
class Reconstruction:
    """Waveform (A, 2, T), log-spectrum over time (A, M, S) or image (C, H, W) each; NaN where `masked` is hidden.

    Attributes:
        error_db: of the hidden part, relative to its variance (a waveform: its power); 0 dB is a constant guess.
    """

    original: np.ndarray
    masked: np.ndarray
    reconstructed: np.ndarray
    num_tokens: int
    num_masked: int
    error_db: float


@dataclass(frozen=True)
class Prediction:
    """Of one adapter: classes with scores or axes with metres, best first; or why there is none.

    Attributes:
        novelty: above 1 where the recording is unlike the adapter's training rows; None: not known.
    """

    adapter: str
    unit: str  # "score", "m" or ""
    values: list[tuple[str, float]]
    note: str
    novelty: float | None = None


class Serving:
    """A pretraining checkpoint, and adapters on a second copy of its encoder.

    Args:
        model: folder or Hub name.
        adapters: the same.

    Raises:
        ValueError: no checkpoint of that kind, or adapters that do not fit it.
    """

    def __init__(self, model: str, adapters: list[str]):
        try:
            config = AutoConfig.from_pretrained(model)
            if config.model_type != "mmwfm" or "MMWFMForPreTraining" not in (config.architectures or []):
                found = f"{config.model_type} {config.architectures}"
                raise ValueError(f"expected a pretraining checkpoint of type mmwfm in {model}, found {found}")
            self.model = AutoModelForPreTraining.from_pretrained(model).eval()
            self.processor = AutoProcessor.from_pretrained(model)
        except OSError as error:
            raise ValueError(
                f"expected the folder or Hub name of a model, found none at {model!r}: {error}"
            ) from error
        self.name, self.config = Path(model).name, config
        self.adapters = MMWFMAdapters.from_pretrained(model)
        self.processors, self.families = {}, {}
        for folder in adapters:
            name = self.adapters.load(folder, Path(folder).name.replace(".", "-"))
            self.processors[name] = AutoProcessor.from_pretrained(folder)
            settings = json.loads((fetch(folder) / "adapter_config.json").read_text())
            self.families[name] = adapted_families(settings["modules_to_save"])
        self.lock = Lock()  # a mask ratio belongs to the configuration

    def prepare(self, processor, signal: Signal, views=None) -> dict[str, torch.Tensor]:
        """Inputs of the model; IQ of another rate is converted. `views` of IQ: those of the processor if not given."""
        rate_hz = signal.sampling_rate_hz or None
        if signal.kind == "csi":
            return dict(processor(csi=signal.values, packet_rate_hz=rate_hz))
        if signal.kind == "image":
            fitted_hz = processor.image_processor.packet_rate_hz
            return dict(processor(images=signal.values, packet_rate_hz=rate_hz, resample=bool(fitted_hz and rate_hz)))
        fitted_hz = processor.feature_extractor.sampling_rate_hz
        resample = bool(fitted_hz and rate_hz)
        if resample and not 1 / MAX_RATE_RATIO <= rate_hz / fitted_hz <= MAX_RATE_RATIO:
            raise ValueError(
                f"expected a sampling rate within {MAX_RATE_RATIO} times {fitted_hz:.4g} Hz, found {rate_hz:.4g}"
            )
        length = model_samples(self.config, len(signal.values))
        length = int(np.ceil(length * rate_hz / fitted_hz)) if resample else length
        values = signal.values[:, : max(length, 1)]
        return dict(processor(iq=values, sampling_rate_hz=rate_hz, views=views, resample=resample))

    def prepare_families(self, signal: Signal) -> tuple[dict[str, dict], str]:
        """By family what the base model sees, and why there may be less than it could."""
        try:
            return self.families_of_base(signal)
        except ValueError as error:
            return {}, str(error)

    def families_of_base(self, signal: Signal) -> tuple[dict[str, dict], str]:
        if signal.kind != "iq" and "image" not in self.config.modalities:
            return {}, f"{self.name} takes IQ alone"
        if signal.kind == "csi":
            batch, known = self.prepare(self.processor, signal), self.config.num_channels
            if (channels := batch["pixel_values"].shape[1]) != known:
                return {}, f"{self.name} was pretrained on images of {known} channels, this CSI has {channels}"
            return {"image": batch}, ""
        if signal.kind == "image":
            channels, known, note = len(signal.values), self.config.num_channels, ""
            if channels != known and known > 1:
                return {}, (
                    f"{self.name} was pretrained on images of {known} channels, this one has {channels}: only adapters "
                    "for such images take it"
                )
            if channels != known:  # what an adapter's projection of the channels starts from
                signal = replace(signal, values=signal.values.mean(0, keepdims=True))
                note = f"The mean of {channels} channels: {self.name} was pretrained on images of one."
            return {"image": self.prepare(self.processor, signal)}, note
        if len(signal.values) > self.config.max_antennas:
            return (
                {},
                f"{self.name} takes at most {self.config.max_antennas} antennas, this recording has {len(signal.values)}",
            )
        found = {}
        if "iq" in self.config.modalities:
            found["iq"] = self.prepare(
                self.processor, replace(signal, values=self.match_level(signal.values)), views=("iq",)
            )
        is_csi = self.processor.image_processor.takes_csi or self.config.num_channels != 1
        if "image" in self.config.modalities and not is_csi:
            found["image"] = dict(self.processor.image_processor(self.spectrogram(signal)))
        return found, ""

    def match_level(self, values: np.ndarray) -> np.ndarray:
        """A receiver's gain is arbitrary: IQ at the power that a base model with fixed statistics knows."""
        extractor, power = self.processor.feature_extractor, np.mean(np.abs(values).astype(float) ** 2)
        if extractor.normalization != "dataset" or not extractor.iq_std or not power > 0:
            return values
        return values * np.float32(np.linalg.norm(extractor.iq_std) / np.sqrt(power))

    def spectrogram(self, signal: Signal) -> torch.Tensor:
        """(1, 1, bins, frames) in dB, as the processor makes it, with its window and level fitted to the recording."""
        extractor, images = copy(self.processor.feature_extractor), self.processor.image_processor
        extractor.sampling_rate_hz = None
        while extractor.n_fft > 64 and signal.values.shape[1] < MIN_FRAMES * extractor.n_fft // 4:
            extractor.n_fft //= 2
            extractor.hop_length = max(1, extractor.n_fft // 8)
        decibels = extractor.spectrogram(signal.values)
        if images.normalization == "dataset" and images.image_mean:
            low, high = images.image_min or 0.0, 1.0 if images.image_max is None else images.image_max
            decibels = decibels + (low + images.image_mean[0] * (high - low) - decibels.mean())
        return decibels

    @torch.no_grad()
    def embed(self, signal: Signal) -> np.ndarray | None:
        """(D,) mean over the tokens of the recording's own family; None if the base model does not take it."""
        parts, _ = self.prepare_families(signal)
        family = FAMILIES[signal.kind]
        if family not in parts:
            return None
        return self.model.mmwfm(**parts[family]).last_hidden_state[0, 1:].mean(0).numpy()

    @torch.no_grad()
    def reconstruct(self, signal: Signal, mask_ratio: float) -> tuple[dict[str, Reconstruction], str]:
        """By what is reconstructed, "waveform", "log_spectrum" and "image", or "csi"; a higher ratio hides what a lower
        one hides, and more."""
        parts, note = self.prepare_families(signal)
        found = {}
        for family, batch in parts.items():
            found |= self.reconstruct_family(family, batch, mask_ratio)
        if "iq" in parts and not found.keys() & {"waveform", "log_spectrum"}:
            note = (
                f"{self.name} reconstructs of IQ its {' and '.join(self.config.iq_targets)}, which is not drawn here"
            )
        if signal.kind == "csi" and found:
            found = {"csi": found["image"]}
        return found, note

    def reconstruct_family(self, family: str, batch: dict, mask_ratio: float) -> dict[str, Reconstruction]:
        with self.lock:
            setattr(self.model.config, f"mask_ratio_{family}", mask_ratio)
            found = reconstruct(self.model, batch)
        return {name: describe(name, parts) for name, parts in found.items()}

    @torch.no_grad()
    def predict(self, signal: Signal) -> list[Prediction]:
        """Of every adapter."""
        return [self.predict_one(name, signal) for name in self.adapters.names]

    def taken(self, name: str) -> list[str]:
        """What an adapter takes, all at once: its processor says so, or its input modules do."""
        processor, families = self.processors[name], self.families[name]
        if processor.kind:
            return [processor.kind]
        if len(families) > 1 and len(processor.iq_views) > 1:
            return ["iq"]  # both are made of it
        return [KINDS[family] for family in families]

    def predict_one(self, name: str, signal: Signal) -> Prediction:
        processor, config = self.processors[name], self.adapters.tasks[name].config
        if signal.kind == "csi" and processor.kind is None and processor.image_processor.csi_to_db:
            signal = replace(signal, kind="image")  # before CSI was an input of its own, such processors took it so
        taken = self.taken(name)
        if taken != [KINDS[signal.kind]]:
            wanted = " and ".join({"iq": "IQ", "images": "images", "csi": "CSI"}[kind] for kind in taken)
            found = {"iq": "IQ", "image": "an image", "csi": "CSI"}[signal.kind]
            return Prediction(name, "", [], f"takes {wanted}; this recording is {found}")
        try:
            output = self.adapters(adapter_names=name, **self.prepare(processor, signal))
        except ValueError as error:
            return Prediction(name, "", [], str(error))
        logits, novelty = output.logits[0].float(), None if output.novelty is None else output.novelty.item()
        labels = [config.id2label[number] for number in range(len(logits))]
        note = self.rate_note(processor, signal)
        if config.problem_type == "regression":
            if labels[0].startswith("LABEL_") and len(labels) <= 3:
                labels = list("xyz")[: len(labels)]
            return Prediction(name, "m", list(zip(labels, logits.tolist())), note, novelty)
        scores, order = logits.softmax(-1).sort(descending=True)
        values = [(labels[i], score) for i, score in zip(order.tolist(), scores.tolist())]
        return Prediction(name, "score", values, note, novelty)

    def rate_note(self, processor, signal: Signal) -> str:
        if signal.kind == "csi":
            fitted_hz, rate_hz = processor.csi_processor.packet_rate_hz, signal.sampling_rate_hz
            if not fitted_hz or rate_hz and abs(rate_hz / fitted_hz - 1) <= OTHER_PACKET_RATE:
                return ""
            found = f"this recording has {rate_hz:.4g}" if rate_hz else "the rate of this recording is not known"
            return f"trained at {fitted_hz:.4g} packets/s; {found}"
        fitted_hz = processor.feature_extractor.sampling_rate_hz
        if signal.kind == "image" or not fitted_hz:
            return ""
        if not signal.sampling_rate_hz:
            return f"trained at {fitted_hz / 1e6:.4g} MS/s; the rate of this recording is not known"
        if abs(signal.sampling_rate_hz / fitted_hz - 1) > 1e-6:
            return f"trained at {fitted_hz / 1e6:.4g} MS/s; converted from {signal.sampling_rate_hz / 1e6:.4g} MS/s"
        return ""


def describe(name: str, parts) -> Reconstruction:
    """The first sample of what `figures_mmwfm.reconstruct` gives."""
    original, masked, reconstructed, hidden = (part[0] for part in parts)
    where = np.isnan(masked)
    power = np.square(original[where]).mean() if name == "waveform" else original[where].var(ddof=1)
    error_db = 10 * np.log10(np.square(reconstructed - original)[where].mean() / max(power, 1e-12))
    arrays = original, masked, reconstructed
    if name == "log_spectrum":
        arrays = (array[:, ::-1] for array in arrays)  # drawn from the lowest row up
    return Reconstruction(*arrays, hidden.size, int(hidden.sum()), float(error_db))


def model_samples(config, num_antennas: int) -> int:
    """Samples of each antenna that the model sees at most."""
    return min(MAX_SAMPLES, max(1, MAX_TOKENS // num_antennas) * config.segment_length)


class Bank:
    """Examples by their embeddings; the mean of all is taken off, which every embedding has in common."""

    def __init__(self, serving: Serving, signals: list[Signal]):
        self.serving, self.signals, self.rows, self.means = serving, {}, {}, {}
        for kind in FAMILIES:
            embedded = [(signal, serving.embed(signal)) for signal in signals if signal.kind == kind]
            embedded = [(signal, row) for signal, row in embedded if row is not None]
            if embedded:
                self.signals[kind] = [signal for signal, _ in embedded]
                rows = np.stack([row for _, row in embedded])
                self.means[kind] = rows.mean(0)
                self.rows[kind] = unit(rows - self.means[kind])

    def nearest(self, signal: Signal, count: int = 5) -> list[tuple[Signal, float]]:
        """With their cosine, nearest first."""
        row = self.serving.embed(signal) if signal.kind in self.rows else None
        if row is None:
            return []
        cosines = self.rows[signal.kind] @ unit(row - self.means[signal.kind])
        order = np.argsort(-cosines)[:count]
        return [(self.signals[signal.kind][i], float(cosines[i])) for i in order]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def find_adapters(places: list[str]) -> list[str]:
    """Folders and Hub names of adapters; a folder that is none stands for the adapters in it."""
    found = []
    for place in places:
        folder = Path(place)
        if folder.is_dir() and not (folder / "adapter_config.json").is_file():
            inside = sorted(str(path.parent) for path in folder.glob("*/adapter_config.json"))
            if not inside:
                raise ValueError(f"expected an adapter or a folder of adapters, found none in {place}")
            found += inside
        else:
            found.append(place)
    return found


def fitting_adapters(model: str) -> list[str]:
    """The adapters beside a model's folder, or in `adapters` there, that were trained on a model of its sizes."""
    config, found, beside = AutoConfig.from_pretrained(model), [], Path(model).parent
    for path in sorted([*beside.glob("*/adapter_config.json"), *beside.glob("adapters/*/adapter_config.json")]):
        own = AutoConfig.from_pretrained(path.parent)
        names = ("model_type", "hidden_size", "num_hidden_layers", "patch_size", "segment_length")
        if all(getattr(own, name, None) == getattr(config, name, None) for name in names):
            found.append(str(path.parent))
        else:
            logger.warning(f"{path.parent} is left out: trained on a model of other sizes than {model}")
    return found
