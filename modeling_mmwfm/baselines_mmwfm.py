"""What a pretrained encoder has to beat: linear models on hand-made features and nearest neighbours on log-spectra."""

import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from .data_collator_mmwfm import shifted_iq
from .evaluation_mmwfm import RESULTS_FILE, report, score, write_predictions
from .files_mmwfm import write_json
from .image_processing_mmwfm import MMWFMImageProcessor
from .processing_mmwfm import CSI_VIEW, MMWFMProcessor, common_unit
from .targets_mmwfm import draw_rows, target_column

SPECTRUM_BINS = 64
NUM_BANDS = 16
PAPER_HELD_OUT_SHARE = 0.2
# Inverse strengths of regularisation (1 / alpha of Ridge) that a probe chooses from; of equally good ones the first.
INVERSE_STRENGTHS = (0.1, 0.01, 1.0, 0.001, 10.0, 0.0001)
NUM_FOLDS = 5


def log_spectrogram(iq: np.ndarray) -> np.ndarray:
    """Log10 power of a Hann STFT without overlap, mean over antennas: (B, A, T, 2) -> (B, frames, 64 bins), float32."""
    signal = np.ascontiguousarray(iq, dtype=np.float32).view(np.complex64)[..., 0]
    missing = max(SPECTRUM_BINS - signal.shape[-1], 0)
    signal = np.pad(signal, ((0, 0), (0, 0), (0, missing)))
    frames = signal[..., : signal.shape[-1] // SPECTRUM_BINS * SPECTRUM_BINS].reshape(
        *signal.shape[:2], -1, SPECTRUM_BINS
    )
    power = np.abs(np.fft.fftshift(np.fft.fft(frames * np.hanning(SPECTRUM_BINS)), axes=-1)) ** 2
    power = power.mean(1)
    # A floor relative to the sample, so that silence does not dominate and any full scale will do.
    return np.log10(power + 1e-6 * power.mean((1, 2), keepdims=True) + 1e-30).astype(np.float32)


def bands(spectrum: np.ndarray) -> np.ndarray:
    """Mean over logarithmically spaced bands of the last axis, the first value left out: (..., F) -> (..., <= 16)."""
    edges = np.unique(np.geomspace(1, spectrum.shape[-1], NUM_BANDS + 1).astype(int))
    return np.stack([spectrum[..., low:high].mean(-1) for low, high in zip(edges[:-1], edges[1:])], axis=-1)


def iq_features(iq: np.ndarray) -> np.ndarray:
    """(B, A, T, 2) -> (B, F): mean and spread of the log-spectrum, rhythm and distribution of the envelope, level."""
    spectrogram = log_spectrogram(iq)
    power = np.square(np.asarray(iq, dtype=np.float32)).sum(-1).mean(1)  # (B, T)
    level = np.log10(power.mean(1, keepdims=True) + 1e-30)
    power = power / (power.mean(1, keepdims=True) + 1e-30)
    rhythm = np.abs(np.fft.rfft(power - 1)) ** 2 / power.shape[1]
    quantiles = np.quantile(power, [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99], axis=1).T
    parts = [
        spectrogram.mean(1),
        spectrogram.std(1),
        np.log10(bands(rhythm) + 1e-6),
        np.log10(quantiles + 1e-4),
        level,
    ]
    return np.concatenate(parts, axis=1)


def image_features(images: np.ndarray) -> np.ndarray:
    """(B, C, H, W) -> (B, F): a 16 x 16 thumbnail, rows' mean and spread over time, rhythm of their fluctuation."""
    images = torch.from_numpy(np.array(images, dtype=np.float32))
    thumbnail = torch.nn.functional.interpolate(images, (16, 16), mode="area").flatten(1)
    groups = torch.nn.functional.adaptive_avg_pool2d(images, (min(32, images.shape[2]), images.shape[3]))
    fluctuation = groups - groups.mean(-1, keepdim=True)
    rhythm = torch.fft.rfft(fluctuation).abs().square().mean(2).numpy() / images.shape[3]  # (B, C, frequencies)
    rhythm = np.log10(bands(rhythm) + 1e-9).reshape(len(images), -1)
    rows = torch.cat([groups.mean(-1), groups.std(-1)], dim=2).flatten(1)
    return np.concatenate([thumbnail.numpy(), rows.numpy(), rhythm], axis=1)


def csi_features(columns: dict) -> np.ndarray:
    """Column `csi` -> (B, F): mean and spread over time of the Doppler that the model sees, before its normalisation."""
    view = MMWFMImageProcessor(**{**CSI_VIEW, "normalization": "none"})
    processor = MMWFMProcessor(csi_processor=view)
    images = processor.prepare_csi(columns["csi"], unit=common_unit(columns))
    std, mean = torch.std_mean(images, -1)
    return torch.cat([mean, std], -1).flatten(1).numpy()


def log_spectra(columns: dict) -> np.ndarray:
    """What nearest neighbours compare: the mean log-spectrum of IQ; of CSI its Doppler; of an image the log-spectra of at most 16 groups of
    its rows (Doppler of CSI over time, delays of CSI over subcarriers); (B, F)."""
    if "iq" in columns:
        return log_spectrogram(columns["iq"]).mean(1)
    if "csi" in columns:
        return csi_features(columns)
    images = torch.from_numpy(np.array(columns["image"], dtype=np.float32))
    groups = torch.nn.functional.adaptive_avg_pool2d(images, (min(16, images.shape[2]), images.shape[3]))
    power = torch.fft.rfft(groups, norm="ortho").abs().square()[..., :128]
    # Positions are sounded at several SNRs: above the fluctuation's own level, or neighbours would pair by their noise.
    floor = (
        power[..., 1:].mean((1, 2, 3), keepdim=True) if "position" in columns else 1e-4 * power.mean((1, 2, 3), True)
    )
    return torch.log10(power + floor + 1e-30).flatten(1).numpy()


def hand_features(columns: dict) -> np.ndarray:
    if "csi" in columns:
        return csi_features(columns)
    return iq_features(columns["iq"]) if "iq" in columns else image_features(columns["image"])


LINEAR = "linear on hand features"
FEATURES = {LINEAR: hand_features, "nearest neighbour on log-spectra": log_spectra}


def measure(rows: Dataset, batch_size: int = 64, carrier_shift: float = 0.0) -> dict[str, np.ndarray]:
    """Every kind of feature of every row: name -> (rows, F); IQ under the carrier shifts that models are tested under."""
    found = {name: [] for name in FEATURES}
    for start in tqdm(range(0, len(rows), batch_size), desc="features", leave=False):
        columns = dict(rows[start : start + batch_size])
        if "iq" in columns:
            columns["iq"] = shifted_iq(columns, carrier_shift)
        for name, function in FEATURES.items():
            found[name].append(function(columns))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def make_model(name: str, regression: bool, num_rows: int):
    if name == LINEAR:
        head = Ridge(alpha=10.0) if regression else LogisticRegression(C=0.3, class_weight="balanced", max_iter=500)
    elif regression:
        return KNeighborsRegressor(min(3, num_rows), weights="distance")
    else:
        head = KNeighborsClassifier(1)
    return make_pipeline(StandardScaler(), head)


def fit(name: str, features: np.ndarray, targets: np.ndarray, num_labels: int):
    """`fit_model` of a baseline."""
    return fit_model(make_model(name, targets.ndim > 1, len(targets)), features, targets, num_labels)


def fit_model(model, features: np.ndarray, targets: np.ndarray, num_labels: int):
    """Fit a scikit-learn model -> a function from features (rows, F) to `logits` (rows, num_labels), as of a model:
    log probabilities of classes (votes of the nearest neighbours), or metres."""
    # An iteration takes a millisecond: two threads wait for each other longer than they work.
    with threadpool_limits(1):
        model.fit(features, targets)
    if targets.ndim > 1:
        return lambda values: model.predict(values).reshape(-1, num_labels)

    def logits(values: np.ndarray) -> np.ndarray:
        found = np.full((len(values), num_labels), -np.inf)  # of classes without a training row
        with np.errstate(divide="ignore"):
            found[:, model.classes_] = np.log(model.predict_proba(values))
        return found

    return logits


def make_linear(regression: bool, inverse_strength: float):
    if regression:
        return Ridge(alpha=1 / inverse_strength)
    return LogisticRegression(C=inverse_strength, class_weight="balanced", max_iter=2000)


def choose_strength(
    features: np.ndarray,
    targets: np.ndarray,
    recordings: np.ndarray,
    num_labels: int,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
) -> float:
    """Of `INVERSE_STRENGTHS` the one with the best balanced accuracy or mean error on the validation split.

    Without a validation split, or with one that lacks a class of the training rows, it is chosen by cross-validation
    over the training rows: five folds of whole recordings, scored together. The first one then stays unless the best is
    better by a standard error: of few rows the best is mostly chance.

    Args:
        features, targets, recordings: of the training rows, (N, F), (N,) classes or (N, axes) metres, (N,).
        validation: features and targets.
    """
    regression, quality = targets.ndim > 1, {}
    num_folds = min(NUM_FOLDS, len(np.unique(recordings)))
    if validation is not None and not regression and set(targets) - set(validation[1]):
        validation = None
    if validation is None and num_folds < 2:
        return INVERSE_STRENGTHS[0]
    for inverse_strength in INVERSE_STRENGTHS:
        model = make_linear(regression, inverse_strength)
        if validation is not None:
            logits, truth = fit_model(model, features, targets, num_labels)(validation[0]), validation[1]
        else:
            logits, truth = np.zeros((len(targets), num_labels)), targets
            for kept, held_out in GroupKFold(num_folds).split(features, groups=recordings):
                if regression or len(np.unique(targets[kept])) > 1:  # of one class nothing is learned
                    predict = fit_model(model, features[kept], targets[kept], num_labels)
                    logits[held_out] = predict(features[held_out])
        numbers = score(logits, truth, regression)
        quality[inverse_strength] = -numbers["mean_error_m"] if regression else numbers["mean_class_accuracy"]
    best = max(quality, key=quality.get)
    if validation is None and not regression:
        error = (quality[best] * (1 - quality[best]) / len(targets)) ** 0.5
        if quality[INVERSE_STRENGTHS[0]] >= quality[best] - error:
            return INVERSE_STRENGTHS[0]
    return best


def count_labels(rows: Dataset) -> int:
    """Classes, or axes of positions."""
    column = target_column(rows)
    return rows.features["label"].num_classes if column == "label" else len(rows[0]["position"])


def measure_splits(splits: dict[str, Dataset], carrier_shift: float = 0.0) -> dict[str, dict[str, np.ndarray]]:
    """`measure` of every split: what `fit_baseline` takes, for any budget and seed."""
    return {split: measure(rows, carrier_shift=carrier_shift) for split, rows in splits.items()}


def fit_baseline(
    name: str,
    splits: dict[str, Dataset],
    features: dict[str, dict[str, np.ndarray]],
    samples_per_class: int | None = None,
    seed: int = 0,
    output_dir: str | Path | None = None,
) -> dict:
    """A baseline in the place of `finetune`: the same training rows for a budget and seed, and the same files.

    Args:
        name: a key of `FEATURES`.
        splits: "train" and any of "validation" and "test", in NumPy format.
        features: of `measure_splits`.
        output_dir: for `test_results.json` and `<split>_predictions.npz`.

    Returns:
        results of the validation and test splits.
    """
    column, num_labels = target_column(splits["train"]), count_labels(splits["train"])
    targets = {split: np.asarray(rows[column][:]) for split, rows in splits.items()}
    rows = draw_rows(targets["train"], samples_per_class, seed)
    began = time.perf_counter()
    predict = fit(name, features["train"][name][rows], targets["train"][rows], num_labels)
    facts = {"trained_rows": len(rows), "seconds": time.perf_counter() - began}
    logits = {split: predict(features[split][name]) for split in ("validation", "test") if split in splits}
    return write_results(output_dir, logits, targets, facts)


def write_results(output_dir: str | Path | None, logits: dict, targets: dict, facts: dict) -> dict:
    """Score the logits of each split and write them as `finetune` does; without a folder nothing is written."""
    results = dict(facts)
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
    for split, values in logits.items():
        results[split] = {**report(values, targets[split], targets[split].ndim > 1), "rows": len(values)}
        if output_dir is not None:
            write_predictions(Path(output_dir), split, values, targets[split])
    if output_dir is not None:
        write_json(Path(output_dir) / RESULTS_FILE, results)
    return results


def run_baselines(
    splits: dict[str, Dataset], seed: int = 0, samples_per_class: int | None = None
) -> dict[str, dict[str, dict[str, float]]]:
    """Baselines under the set's own grouped splits, and under a random fifth of all rows as in the paper's protocol.

    Args:
        splits: "train" and "test" (or, without one, "validation"), in NumPy format, with `label` or `position`.
        seed: of the random fifth and of the label budget.
        samples_per_class: label budget, see `draw_rows`.

    Returns:
        protocol ("grouped", "paper") -> baseline -> metrics. The difference is what the paper's protocol leaks.

    Raises:
        ValueError: no such splits or no target.
    """
    held_out = "test" if "test" in splits else "validation"
    if "train" not in splits or held_out not in splits:
        raise ValueError(f"expected splits train and test or validation, found {sorted(splits)}")
    column, num_labels = target_column(splits["train"]), count_labels(splits["train"])
    rows = concatenate_datasets([splits["train"], splits[held_out]])
    targets, features = np.asarray(rows[column][:]), measure(rows)
    is_test = {
        "grouped": np.arange(len(rows)) >= len(splits["train"]),
        "paper": np.random.default_rng(seed).random(len(rows)) < PAPER_HELD_OUT_SHARE,
    }
    results = {}
    for protocol, test in is_test.items():
        train = np.flatnonzero(~test)
        train = train[draw_rows(targets[train], samples_per_class, seed)]
        results[protocol] = {}
        for name, values in features.items():
            logits = fit(name, values[train], targets[train], num_labels)(values[test])
            results[protocol][name] = score(logits, targets[test], column == "position")
    return results
