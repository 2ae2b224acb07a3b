"""Results of `modeling_mmwfm.analyze` while they grow: stretches of one class, waterfall; and how they are written.

All of bounded size, however long the recording: of the waterfall at most `MAX_COLUMNS` columns are kept.
"""

import json
from pathlib import Path

import matplotlib
import numpy as np
import sigmf
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .recordings_mmwfm import DATATYPES, Recording

MAX_COLUMNS = 1200
NUM_BINS = 256
# Of the occupied band: bins this much above the floor count, and this share of their power lies inside the edges.
ABOVE_FLOOR, INSIDE = 4.0, 0.99


class Segment:
    """A stretch of one class: samples `start` to `end`."""

    def __init__(self, label: int, start: int, end: int, score: float, spectrum: np.ndarray, novelty: float = 0.0):
        self.label, self.start, self.end = label, start, end
        self.num_windows, self.total_score, self.total_novelty = 1, score, novelty
        self.first = self.last = spectrum
        self.inner = np.zeros_like(spectrum)

    def extend(self, end: int, score: float, spectrum: np.ndarray, novelty: float = 0.0):
        if self.num_windows > 1:
            self.inner += self.last
        self.end, self.last = end, spectrum
        self.num_windows, self.total_score = self.num_windows + 1, self.total_score + score
        self.total_novelty += novelty

    @property
    def score(self) -> float:
        return self.total_score / self.num_windows

    @property
    def novelty(self) -> float:
        return self.total_novelty / self.num_windows

    @property
    def spectrum(self) -> np.ndarray:
        """(bins,) power from -fs/2 up; without the first and the last window, which hold of the neighbours, too."""
        return self.inner if self.num_windows > 2 else self.first + self.last


class Segments:
    """Windows, one after another -> stretches. Two windows that overlap meet in the middle of their overlap.

    Args:
        num_samples, length: of the recording and of a window.
        min_score: of windows that count.
        background: classes that do not count.
    """

    def __init__(self, num_samples: int, length: int, min_score: float = 0.0, background=()):
        self.num_samples, self.length = num_samples, length
        self.min_score, self.background = min_score, frozenset(background)
        self.found: list[Segment] = []
        # Start of its samples, first sample, label, score, spectrum and novelty of the last window.
        self.last: tuple | None = None

    def add(
        self, start: int, label: int, score: float, spectrum: np.ndarray, novelty: float = 0.0
    ) -> tuple[int, int, int, bool]:
        """The next window.

        Returns:
            (first sample, end, label or -1, whether it is unlike the training rows) of what the window before it has
            won; empty before the first.
        """
        begin = 0 if self.last is None else (self.last[1] + self.length + start) // 2
        won = self.close(begin)
        self.last = (begin, start, label, score, spectrum, novelty)
        return won

    def finish(self) -> tuple[int, int, int, bool]:
        return self.close(self.num_samples)

    def close(self, end: int) -> tuple[int, int, int, bool]:
        if self.last is None:
            return 0, 0, -1, False
        begin, _, label, score, spectrum, novelty = self.last
        if label in self.background or score < self.min_score:
            return begin, end, -1, novelty > 1
        before = self.found[-1] if self.found else None
        if before is not None and before.label == label and before.end == begin:
            before.extend(end, score, spectrum, novelty)
        else:
            self.found.append(Segment(label, begin, end, score, spectrum, novelty))
        return begin, end, label, novelty > 1


class Waterfall:
    """Mean power by time and frequency, and how many samples of each column belong to each class."""

    def __init__(self, num_samples: int, length: int, num_labels: int):
        self.num_bins = min(NUM_BINS, length)
        self.num_samples = num_samples
        self.num_columns = max(1, min(MAX_COLUMNS, num_samples // self.num_bins))
        self.power = np.zeros((self.num_columns, self.num_bins))
        self.count = np.zeros(self.num_columns, dtype=np.int64)
        self.samples_of = np.zeros((self.num_columns, num_labels), dtype=np.int64)
        self.novel = np.zeros(self.num_columns, dtype=np.int64)
        self.taper = np.hanning(self.num_bins + 2)[1:-1].astype(np.float32)

    def add(self, starts: np.ndarray, windows: np.ndarray) -> np.ndarray:
        """Windows (B, A, length) -> (B, bins) mean power of each, from -fs/2 up."""
        num_frames = windows.shape[-1] // self.num_bins
        frames = windows[..., : num_frames * self.num_bins].reshape(*windows.shape[:2], num_frames, self.num_bins)
        spectra = np.fft.fftshift(np.fft.fft(frames * self.taper), axes=-1)
        power = (spectra.real**2 + spectra.imag**2).mean(1)
        centers = starts[:, None] + np.arange(num_frames) * self.num_bins + self.num_bins // 2
        columns = np.minimum(centers * self.num_columns // self.num_samples, self.num_columns - 1).ravel()
        np.add.at(self.power, columns, power.reshape(-1, self.num_bins))
        np.add.at(self.count, columns, 1)
        return power.mean(1)

    def mark(self, start: int, end: int, label: int, is_novel: bool = False):
        """Samples start to end belong to a class; -1: to none."""
        if label < 0 or start >= end:
            return
        edges = np.arange(self.num_columns + 1) * self.num_samples // self.num_columns
        first, last = np.searchsorted(edges, [start, end - 1], side="right") - 1
        columns = np.arange(first, last + 1)
        covered = np.minimum(edges[columns + 1], end) - np.maximum(edges[columns], start)
        self.samples_of[columns, label] += covered
        if is_novel:
            self.novel[columns] += covered

    def decibels(self) -> np.ndarray:
        """(columns, bins); a column without a frame repeats the one before it."""
        filled = np.maximum.accumulate(np.where(self.count > 0, np.arange(self.num_columns), 0))
        mean = self.power[filled] / np.maximum(self.count[filled], 1)[:, None]
        return 10 * np.log10(mean + np.finfo(np.float32).tiny)

    def labels(self) -> np.ndarray:
        """(columns,) the class of most samples; -1 where none has any."""
        return np.where(self.samples_of.any(1), self.samples_of.argmax(1), -1)

    def is_novel(self) -> np.ndarray:
        """(columns,) whether more than half of what has a class is unlike the training rows."""
        return 2 * self.novel > self.samples_of.sum(1)


def fluctuation(csi: np.ndarray) -> np.ndarray:
    """CSI (B, A, subcarriers, packets) -> (B, A * subcarriers, packets): how the amplitude moves about its mean."""
    amplitude = np.abs(csi).reshape(len(csi), -1, csi.shape[-1])
    mean = amplitude.mean(-1, keepdims=True)
    return amplitude / np.maximum(mean, np.finfo(np.float32).tiny) - 1


def occupied_band(spectrum: np.ndarray) -> tuple[float, float]:
    """Edges, in units of the sampling rate, of the band that holds `INSIDE` of the power above the noise floor.

    The floor is what a fifth of the bins lie below; a band without a floor is occupied as a whole.
    """
    floor = np.quantile(spectrum, 0.2)
    excess = np.where(spectrum > ABOVE_FLOOR * floor, spectrum - floor, 0.0)
    if not excess.any():
        return -0.5, 0.5
    share = np.cumsum(excess) / excess.sum()
    low, high = np.searchsorted(share, [(1 - INSIDE) / 2, (1 + INSIDE) / 2])
    return low / len(spectrum) - 0.5, (high + 1) / len(spectrum) - 0.5


def write_annotations(
    path: Path, recording: Recording, own_meta: Path | None, segments: list[Segment], labels, rate_hz, center_hz
):
    """SigMF metadata of a recording: one annotation for each segment.

    Args:
        own_meta: that of a SigMF recording, whose global fields and captures are kept.
    """
    is_csi = recording.kind == "csi"
    raw_type = recording.open_raw().dtype
    datatype = next((name for name, dtype in DATATYPES.items() if dtype == raw_type), "cf32_le")
    datatype = "rf32_le" if is_csi else datatype  # a channel for each subcarrier of each antenna
    fields = {"core:datatype": datatype, "core:num_channels": int(np.prod(recording.shape[:-1]))}
    capture = {"core:sample_start": 0}
    if rate_hz:
        fields["core:sample_rate"] = rate_hz
    if center_hz:
        capture["core:frequency"] = center_hz
    captures = [capture]
    if own_meta is not None:
        meta = json.loads(own_meta.read_text(encoding="utf-8"))
        fields, captures = meta["global"] | fields, meta.get("captures") or captures
        fields.pop("core:dataset", None)
    offset = int(fields.get("core:offset", 0))
    extension = {"name": "mmwfm", "version": "1.0.0", "optional": True}
    fields["core:extensions"] = [*fields.get("core:extensions", []), extension]
    fields |= {"core:metadata_only": True, "core:version": sigmf.__specification__}
    annotations = []
    for segment in segments:
        entry = {
            "core:sample_start": segment.start + offset,
            "core:sample_count": segment.end - segment.start,
            "core:label": labels[segment.label],
            "core:generator": "mmwfm",
            "core:comment": f"score {segment.score:.3f}, mean of {segment.num_windows} windows",
            "mmwfm:score": round(segment.score, 6),
        }
        if segment.total_novelty:
            entry["mmwfm:novelty"] = round(segment.novelty, 6)
            entry["core:comment"] += f", novelty {segment.novelty:.2f}"
            if segment.novelty > 1:
                entry["core:comment"] += ": unlike the training data"
        if rate_hz and not is_csi:
            low, high = occupied_band(segment.spectrum)
            entry["core:freq_lower_edge"] = center_hz + low * rate_hz
            entry["core:freq_upper_edge"] = center_hz + high * rate_hz
        annotations.append(entry)
    meta = sigmf.SigMFFile(metadata={"global": fields, "captures": captures, "annotations": annotations})
    meta.tofile(path, skip_validate=False)


def plot_analysis(path: Path, waterfall: Waterfall, labels, rate_hz, center_hz, title, doppler: bool = False):
    """PNG: waterfall above, of CSI its Doppler, the class over time below, on one time axis."""
    samples = "packets" if doppler else "samples"
    duration, time_unit = (waterfall.num_samples / rate_hz, "s") if rate_hz else (waterfall.num_samples, samples)
    low, high = (np.array([-0.5, 0.5]) * rate_hz + center_hz) / (1 if doppler else 1e6) if rate_hz else (-0.5, 0.5)
    decibels, classes = waterfall.decibels(), waterfall.labels()
    figure = Figure(figsize=(10, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(8, 1))
    image = upper.imshow(
        decibels.T,
        origin="lower",
        aspect="auto",
        extent=(0, duration, low, high),
        vmin=np.quantile(decibels, 0.05),
        vmax=np.quantile(decibels, 0.999),
        interpolation="nearest",
    )
    if doppler:
        frequency = "Doppler in Hz" if rate_hz else "Doppler / packet rate"
    else:
        frequency = "frequency in MHz" if rate_hz else "frequency / sampling rate"
    upper.set(ylabel=frequency, title=title)
    figure.colorbar(image, ax=upper, label="power in dB", pad=0.01)
    colors = matplotlib.colormaps["tab20"](np.arange(len(labels)) % 20)
    present = [number for number in range(len(labels)) if (classes == number).any()]
    lower.imshow(
        np.ma.masked_less(classes, 0)[None],
        aspect="auto",
        extent=(0, duration, 0, 1),
        cmap=ListedColormap(colors),
        vmin=-0.5,
        vmax=len(labels) - 0.5,
        interpolation="nearest",
    )
    novel = waterfall.is_novel()
    if novel.any():
        grey = {"cmap": ListedColormap(["0.75"]), "aspect": "auto", "interpolation": "nearest"}
        lower.imshow(np.ma.masked_equal(novel.astype(int), 0)[None], extent=(0, duration, 0.5, 1), **grey)
        lower.set_ylim(0, 1)
    lower.set(yticks=[], xlabel=f"time in {time_unit}", ylabel="class")
    if present:
        patches = [Patch(color=colors[number], label=labels[number]) for number in present]
        if novel.any():
            patches.append(Patch(color="0.75", label="unlike the training data"))
        figure.legend(handles=patches, loc="outside lower center", ncols=min(len(present), 6), frameon=False)
    figure.savefig(path, dpi=110, format="png")
