"""Draw one example of every class of a data set: `python -m processing.figures data/rfs --output rfs.png`."""

import argparse
import json
from pathlib import Path

import numpy as np
from datasets import DatasetDict, load_dataset
from matplotlib.figure import Figure
from scipy.signal import spectrogram

MAX_EXAMPLES = 24
COLUMNS = 5


def choose_examples(dataset: DatasetDict, split: str = "train") -> list[tuple[str, dict]]:
    """(title, row) of the first row of every class; without classes, of the first that differ in their parameters."""
    rows = dataset[split]
    if "label" not in rows.column_names:
        # positions all differ: a few of them are enough
        first = {_describe(row): row for row in reversed(list(rows.select(range(min(len(rows), 200)))))}
        return sorted(first.items())[: 10 if "position" in rows.column_names else MAX_EXAMPLES]
    labels = np.asarray(rows["label"][:])
    names = rows.features["label"].names
    return [
        (names[label], rows[int(np.flatnonzero(labels == label)[0])]) for label in np.unique(labels)[:MAX_EXAMPLES]
    ]


def _describe(row: dict) -> str:
    parameters = json.loads(row["parameters"])
    if "position" in row:
        return "(" + ", ".join(f"{axis:.1f}" for axis in row["position"]) + ") m"
    return str(parameters.get("modulation") or parameters.get("band") or row["recording"])


def draw_iq(axes, row: dict):
    """Spectrogram of antenna 0 in dB, frequency over time; relative to the strongest bin."""
    iq = np.asarray(row["iq"][0], dtype=np.float32)
    signal = iq[:, 0] + 1j * iq[:, 1]
    rate_hz = row["sampling_rate_hz"] or 1.0
    length = min(64, len(signal) // 4)
    _, _, power = spectrogram(signal, rate_hz, "hann", length, length * 3 // 4, return_onesided=False, detrend=False)
    image = np.fft.fftshift(10 * np.log10(power + 1e-20), axes=0)
    extent = [0, len(signal) / rate_hz * 1e6, -rate_hz / 2e6, rate_hz / 2e6]
    top = image.max()
    axes.imshow(image, origin="lower", aspect="auto", extent=extent, vmin=top - 50, vmax=top, cmap="viridis")
    axes.set(xlabel="us", ylabel="MHz")


def draw_image(axes, row: dict):
    """Channel 0 between its 1st and 99th percentile."""
    image = np.asarray(row["image"], dtype=np.float32)[0]
    low, high = np.percentile(image, [1, 99])
    axes.imshow(image, origin="lower", aspect="auto", vmin=low, vmax=high, cmap="viridis", interpolation="nearest")
    axes.set(xticks=[], yticks=[], xlabel=f"channel 0, {image.shape[0]} x {image.shape[1]}")


def draw_examples(examples: list[tuple[str, dict]], path: str | Path, title: str = "") -> Path:
    """One panel for each example, written as PNG."""
    columns = min(COLUMNS, len(examples))
    num_rows = -(-len(examples) // columns)
    figure = Figure(figsize=(3 * columns, 2.7 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, columns, squeeze=False).ravel()
    for axes in panels[len(examples) :]:
        axes.set_axis_off()
    for axes, (name, row) in zip(panels, examples):
        (draw_iq if "iq" in row else draw_image)(axes, row)
        axes.set_title(name, fontsize=9)
    figure.suptitle(title)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=70)
    return path


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help="folder or Hub name of a data set")
    parser.add_argument("--output", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--split", default="train")
    options = parser.parse_args(arguments)
    try:
        dataset = load_dataset(options.dataset)
    except FileNotFoundError as error:
        parser.error(f"expected the folder or Hub name of a data set, found none at {options.dataset!r}: {error}")
    if options.split not in dataset:
        parser.error(f"expected split to be one of {', '.join(dataset)}, found {options.split!r}")
    examples = choose_examples(dataset, options.split)
    print(draw_examples(examples, options.output, Path(options.dataset).name))


if __name__ == "__main__":
    main()
