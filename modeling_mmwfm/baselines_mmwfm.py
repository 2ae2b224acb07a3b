"""What a pretrained encoder has to beat: linear models on hand-made features and nearest neighbours on log-spectra."""

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from .evaluation_mmwfm import score

SPECTRUM_BINS = 64
NUM_BANDS = 16
PAPER_HELD_OUT_SHARE = 0.2


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


def log_spectra(columns: dict) -> np.ndarray:
    """What nearest neighbours compare: the mean log-spectrum of IQ; of an image the log-spectra of at most 16 groups of
    its rows (Doppler of CSI over time, delays of CSI over subcarriers); (B, F)."""
    if "iq" in columns:
        return log_spectrogram(columns["iq"]).mean(1)
    images = torch.from_numpy(np.array(columns["image"], dtype=np.float32))
    groups = torch.nn.functional.adaptive_avg_pool2d(images, (min(16, images.shape[2]), images.shape[3]))
    power = torch.fft.rfft(groups, norm="ortho").abs().square()[..., :128]
    floor = 1e-4 * power.mean((1, 2, 3), keepdim=True) + 1e-30
    return torch.log10(power + floor).flatten(1).numpy()


def hand_features(columns: dict) -> np.ndarray:
    return iq_features(columns["iq"]) if "iq" in columns else image_features(columns["image"])


FEATURES = {"linear on hand features": hand_features, "nearest neighbour on log-spectra": log_spectra}


def measure(rows: Dataset, batch_size: int = 64) -> dict[str, np.ndarray]:
    """Every kind of feature of every row: name -> (rows, F)."""
    found = {name: [] for name in FEATURES}
    for start in tqdm(range(0, len(rows), batch_size), desc="features", leave=False):
        columns = rows[start : start + batch_size]
        for name, function in FEATURES.items():
            found[name].append(function(columns))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def make_model(name: str, regression: bool):
    if name.startswith("linear"):
        head = Ridge(alpha=10.0) if regression else LogisticRegression(C=0.3, class_weight="balanced", max_iter=500)
    else:
        head = KNeighborsRegressor(5, weights="distance") if regression else KNeighborsClassifier(1)
    return make_pipeline(StandardScaler(), head)


def fit_and_score(name: str, train, train_targets, test, test_targets) -> dict[str, float]:
    """Metrics of one baseline, as of a fine-tuned model."""
    regression = train_targets.ndim == 2
    model = make_model(name, regression).fit(train, train_targets)
    predictions = model.predict(test)
    if not regression:
        predictions = np.eye(int(max(train_targets.max(), test_targets.max())) + 1)[predictions]
    return score(predictions, test_targets, regression)


def run_baselines(splits: dict[str, Dataset], seed: int = 0) -> dict[str, dict[str, dict[str, float]]]:
    """Baselines under the set's own grouped splits, and under a random fifth of all rows as in the paper's protocol.

    Args:
        splits: "train" and "test" (or, without one, "validation"), in NumPy format, with `label` or `position`.

    Returns:
        protocol ("grouped", "paper") -> baseline -> metrics. The difference is what the paper's protocol leaks.

    Raises:
        ValueError: no such splits or no target.
    """
    held_out = "test" if "test" in splits else "validation"
    if "train" not in splits or held_out not in splits:
        raise ValueError(f"expected splits train and test or validation, found {sorted(splits)}")
    column = "position" if "position" in splits["train"].column_names else "label"
    if column not in splits["train"].column_names:
        raise ValueError(f"expected a column `label` or `position`, found {splits['train'].column_names}")
    rows = concatenate_datasets([splits["train"], splits[held_out]])
    targets, features = np.asarray(rows[column][:]), measure(rows)
    is_test = {
        "grouped": np.arange(len(rows)) >= len(splits["train"]),
        "paper": np.random.default_rng(seed).random(len(rows)) < PAPER_HELD_OUT_SHARE,
    }
    return {
        protocol: {
            name: fit_and_score(name, values[~test], targets[~test], values[test], targets[test])
            for name, values in features.items()
        }
        for protocol, test in is_test.items()
    }
