"""Plots of training and evaluation, written as PNG."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from .tokens_mmwfm import patchify, segment, unpatchify, unsegment


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Under a temporary name first: training draws its figures again and again."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}")
    figure.savefig(unfinished, dpi=110, bbox_inches="tight", format=path.suffix[1:])
    return unfinished.replace(path)


def plot_losses(log: list[dict], path: str | Path) -> Path:
    """Training and validation loss of every family over epochs; `log` rows hold "epoch" and the losses."""
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


@torch.no_grad()
def reconstruct(model: torch.nn.Module, batch: dict, seed: int = 0) -> dict[str, list[np.ndarray]]:
    """Original, masked (NaN) and reconstructed samples of a batch of one family; visible parts stay as they are.

    Returns:
        the family and its three arrays, (B, A, 2, T) or (B, C, H, W).
    """
    device, config = model.device, model.config
    family = "iq" if "iq_values" in batch else "image"
    was_training = model.training
    model.eval()
    original = batch["iq_values" if family == "iq" else "pixel_values"].float().to(device)
    tokens = segment(original, config.segment_length) if family == "iq" else patchify(original, config.patch_size)
    noise = torch.rand(tokens.shape[:2], generator=torch.Generator().manual_seed(seed)).to(device)
    output = model(**{key: value.to(device) for key, value in batch.items()}, **{f"{family}_noise": noise})
    model.train(was_training)
    mask = output[f"{family}_mask"][..., None].bool()
    parts = [
        tokens,
        tokens.masked_fill(mask, float("nan")),
        torch.where(mask, output[f"{family}_logits"].float(), tokens),
    ]
    if family == "iq":
        parts = [unsegment(part, original.shape[1], original.shape[3]) for part in parts]
    else:
        parts = [unpatchify(part, config.patch_size, *original.shape[-2:]) for part in parts]
    return {family: [part.cpu().numpy() for part in parts]}


def plot_reconstruction(family: str, parts: list[np.ndarray], path: str | Path) -> Path:
    """What `reconstruct` gives, a row for each sample."""
    return (plot_iq_rows if family == "iq" else plot_image_rows)(*parts, path)


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
