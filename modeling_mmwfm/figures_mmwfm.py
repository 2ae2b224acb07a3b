"""Plots of training and evaluation, written as PNG."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from .mask_noise_mmwfm import add_noise, seeded_noise
from .objectives_mmwfm import iq_targets, split_iq_logits
from .tokens_mmwfm import unpatchify, unsegment, unsegment_spectra


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Under a temporary name first: training draws its figures again and again."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}")
    figure.savefig(unfinished, dpi=110, bbox_inches="tight", format=path.suffix[1:])
    return unfinished.replace(path)


def plot_losses(log: list[dict], path: str | Path) -> Path:
    """Training and validation loss of every source over epochs; `log` rows hold "epoch" and the losses."""
    figure = Figure(figsize=(6, 3.6))
    axes = figure.subplots()
    keys = sorted({key for row in log for key in row if key.endswith("loss")})
    for color, key in enumerate(keys):
        points = [(row["epoch"], row[key]) for row in log if key in row]
        style = "o--" if key.startswith("validation") else "-"
        axes.plot(*zip(*points), style, label=key.replace("_", " "), markersize=3, color=f"C{color}")
    axes.set(xlabel="epoch", ylabel="mean squared error", title="Masked wireless modeling")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(figure, path)


class Reconstruction(NamedTuple):
    """Samples of a batch: as they are, with what is hidden as NaN, and with what the model says of it.

    Waveforms (B, A, 2, T), log-spectra (B, A, M, S) with frequency up and time to the right, or images (B, C, H, W);
    `hidden` (B, N) bool says which tokens were hidden.
    """

    original: np.ndarray
    masked: np.ndarray
    reconstructed: np.ndarray
    hidden: np.ndarray


@torch.no_grad()
def reconstruct(model: torch.nn.Module, batch: dict, seed: int = 0) -> dict[str, Reconstruction]:
    """By what is reconstructed: "image", and of IQ "waveform" and "log_spectrum" as far as they are targets.

    The level and spread of tokens that `normalize_targets` takes away are not predicted: they are taken as known.
    """
    device, config = model.device, model.config
    batch = {name: value.to(device) for name, value in batch.items()}
    was_training = model.training
    model.eval()
    draw = seeded_noise(len(next(iter(batch.values()))), seed)
    add_noise(batch, config, lambda values: draw(values).to(device))
    output = model(**batch)
    tokens = model.mmwfm.tokenize(batch.get("iq_values"), batch.get("iq_attention_mask"), batch.get("pixel_values"))
    model.train(was_training)

    def compare(values, logits, mask, fold: Callable) -> Reconstruction:
        values, logits, hidden = values.float(), logits.float(), mask[..., None].bool()
        if config.normalize_targets:
            std, mean = torch.std_mean(values, -1, keepdim=True)
            logits = logits * std + mean
        parts = values, values.masked_fill(hidden, float("nan")), torch.where(hidden, logits, values)
        return Reconstruction(*(fold(part).cpu().numpy() for part in parts), hidden[..., 0].cpu().numpy())

    found = {}
    if "image" in tokens:
        height, width = batch["pixel_values"].shape[-2:]
        fold = partial(unpatchify, patch_size=config.patch_size, height=height, width=width)
        found["image"] = compare(tokens["image"].values, output.image_logits, output.image_mask, fold)
    if "iq" in tokens:
        antennas, _, samples = batch["iq_values"].shape[1:]
        folds = {
            "waveform": partial(unsegment, num_antennas=antennas, num_samples=samples),
            "log_spectrum": partial(unsegment_spectra, num_antennas=antennas),
        }
        targets, logits = iq_targets(tokens["iq"], config), split_iq_logits(output.iq_logits, config)
        for name, fold in folds.items():
            if name in targets:
                found[name] = compare(targets[name][0], logits[name], output.iq_mask, fold)
    return found


def plot_reconstruction(name: str, parts: Reconstruction, path: str | Path) -> Path:
    """One of what `reconstruct` gives, a row for each sample."""
    return (plot_iq_rows if name == "waveform" else plot_image_rows)(*parts[:3], path)


TITLES = ("original", "masked", "reconstructed")


def plot_image_rows(original, masked, reconstructed, path) -> Path:
    figure = Figure(figsize=(8, 2.7 * len(original)))
    axes = figure.subplots(len(original), 3, squeeze=False)
    for row, images in enumerate(zip(original, masked, reconstructed)):
        low, high = np.percentile(images[0][0], [1, 99])
        for column, image in enumerate(images):
            axes[row, column].imshow(image[0], vmin=low, vmax=high, cmap="viridis", aspect="auto")
            axes[row, column].set(xticks=[], yticks=[], title=TITLES[column] if row == 0 else "")
    return save_figure(figure, path)


def plot_iq_rows(original, masked, reconstructed, path, num_samples: int = 384) -> Path:
    figure = Figure(figsize=(10, 1.9 * len(original)))
    axes = figure.subplots(len(original), 3, squeeze=False, sharey="row")
    for row, signals in enumerate(zip(original, masked, reconstructed)):
        for column, signal in enumerate(signals):
            axes[row, column].plot(signal[0, 0, :num_samples], linewidth=0.7, label="I")
            axes[row, column].plot(signal[0, 1, :num_samples], linewidth=0.7, label="Q")
            axes[row, column].set(xticks=[], title=TITLES[column] if row == 0 else "")
    axes[0, 0].legend(loc="upper right", fontsize=7)
    axes[-1, 1].set_xlabel(f"first {min(num_samples, original.shape[-1])} samples of antenna 0")
    return save_figure(figure, path)


def plot_confusion(matrix: np.ndarray, names: list[str], path: str | Path, title: str = "") -> Path:
    """Confusion matrix, rows (true class) in percent."""
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    size = 2.5 + 0.45 * len(names)
    figure = Figure(figsize=(size, size))
    axes = figure.subplots()
    axes.imshow(share, vmin=0, vmax=100, cmap="Blues")
    for (row, column), value in np.ndenumerate(share):
        color = "white" if value > 55 else "black"
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=color)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    return save_figure(figure, path)


def plot_error_distribution(errors_m: np.ndarray, path: str | Path, title: str = "") -> Path:
    """Cumulative distribution of the localisation error."""
    figure = Figure(figsize=(5, 3.4))
    axes = figure.subplots()
    axes.plot(np.sort(errors_m), np.arange(1, len(errors_m) + 1) / len(errors_m))
    axes.set(xlabel="localisation error (m)", ylabel="share of positions", title=title, ylim=(0, 1))
    axes.grid(alpha=0.3)
    return save_figure(figure, path)
