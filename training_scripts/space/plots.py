"""Plots as SVG in the colours of the page, light or dark, and thumbnails."""

import html
import io
import re

import matplotlib
import numpy as np
import torch
from inputs import Signal
from matplotlib.figure import Figure
from PIL import Image
from serving import Reconstruction

from modeling_mmwfm.views_mmwfm import amplitude_db, carrier_offset, doppler_image, fill_unused, shift_frequency

INK = "#010203"  # becomes the text colour of the page
I_COLOR, Q_COLOR = "#3b82f6", "#f59e0b"
STYLE = {
    **dict.fromkeys(["text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"], INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "svg.fonttype": "none",
}
CONSTELLATION_SAMPLES = 4096
MAX_FRAMES = 400
RANGE_DB = 60  # of a waterfall, below its peak, at most
SHOWN_SAMPLES, SHOWN_SEGMENTS = 384, 16  # at least
DOPPLER_WINDOW = 32  # packets


def draw(size: tuple[float, float], plot, description: str) -> str:
    """What `plot` draws on a figure, as SVG to be put into a page."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        plot(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # its rules would hold for the whole page
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return f'<div class="plot" role="img" aria-label="{html.escape(description)}">{svg}</div>'


def stft_db(values: np.ndarray, bins: int, max_frames: int) -> np.ndarray:
    """(A, T) -> (bins, frames) mean power over the antennas in dB, from -fs/2 up; frames are averaged where many."""
    values = np.pad(values.astype(np.complex128), ((0, 0), (0, max(0, bins - values.shape[1]))))
    hop = max(bins // 4, values.shape[1] // (4 * max_frames))
    frames = np.lib.stride_tricks.sliding_window_view(values, bins, axis=1)[:, ::hop]
    power = np.abs(np.fft.fftshift(np.fft.fft(frames * np.hanning(bins), axis=-1), axes=-1)) ** 2
    power = power.mean(0)
    group = -(-len(power) // max_frames)
    power = np.add.reduceat(power, np.arange(0, len(power), group)) / group
    return 10 * np.log10(power.T + 1e-20)


def color_limits(image: np.ndarray) -> tuple[float, float]:
    high = float(np.quantile(image, 0.999))
    return max(float(np.quantile(image, 0.05)), high - RANGE_DB), high + 1e-6


def plot_waterfall(signal: Signal) -> str:
    """Frequency over time, power in dB; of CSI its amplitude, of an image-like recording its channels."""
    if signal.kind == "image":
        return draw((9.3, 3.1), lambda figure: draw_channels(figure, signal), f"channels of {signal.name}")

    if signal.kind == "csi":
        return draw((6.2, 3.1), lambda figure: draw_amplitude(figure, signal), f"amplitude of {signal.name}")

    def plot(figure):
        axes = figure.subplots()
        samples, rate_hz = signal.values.shape[1], signal.sampling_rate_hz
        bins = int(2 ** np.clip(np.round(np.log2(max(samples, 1)) / 2) + 1, 4, 9))
        image = stft_db(signal.values, bins, MAX_FRAMES)
        scale, unit = time_unit(samples / rate_hz) if rate_hz else (1, "samples")
        duration = samples / rate_hz * scale if rate_hz else samples
        low, high = (np.array([-0.5, 0.5]) * rate_hz + signal.center_frequency_hz) / 1e6 if rate_hz else (-0.5, 0.5)
        limits = color_limits(image)
        shown = axes.imshow(
            image, origin="lower", aspect="auto", extent=(0, duration, low, high), vmin=limits[0], vmax=limits[1]
        )
        axes.set(xlabel=f"time ({unit})", ylabel="frequency (MHz)" if rate_hz else "frequency / sampling rate")
        figure.colorbar(shown, ax=axes, label="power (dB)", pad=0.01).outline.set_visible(False)

    return draw((6.2, 3.1), plot, f"waterfall of {signal.name}")


def amplitude(signal: Signal) -> np.ndarray:
    """Of CSI: (subcarriers, packets), the mean over the antennas."""
    return np.abs(signal.values).mean(0)


def draw_amplitude(figure, signal: Signal):
    axes, image, rate_hz = figure.subplots(), amplitude(signal), signal.sampling_rate_hz
    low, high = np.quantile(image, [0.01, 0.99])
    extent = (0, image.shape[1] / (rate_hz or 1), -0.5, len(image) - 0.5)
    shown = axes.imshow(
        image, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high + 1e-6, interpolation="nearest"
    )
    axes.set(xlabel="time (s)" if rate_hz else "packet", ylabel="subcarrier")
    figure.colorbar(shown, ax=axes, label="amplitude", pad=0.01).outline.set_visible(False)


def plot_doppler(signal: Signal) -> str:
    """Of CSI what moves: gain control and static channel taken off, the mean over antennas and subcarriers."""

    def plot(figure):
        axes, rate_hz = figure.subplots(), signal.sampling_rate_hz
        values = amplitude_db(fill_unused(torch.from_numpy(signal.values)[None]))
        if values.shape[2] > 1:  # of one subcarrier nothing would be left
            values = values - values.mean(2, keepdim=True)
        values = values - values.mean(3, keepdim=True)
        bins = DOPPLER_WINDOW // 2
        image = doppler_image(values, MAX_FRAMES, 1, DOPPLER_WINDOW, bins, merge_antennas=True)[0, 0].numpy()
        packets = signal.values.shape[2]
        start = min(DOPPLER_WINDOW, packets) / 2  # the middle of the first window
        times = np.array([start, max(packets - start, start + 1)]) / (rate_hz or 1)
        frequencies = np.array([-0.5, bins - 0.5]) / DOPPLER_WINDOW * (rate_hz or 1)
        low, high = color_limits(image)
        axes.imshow(image, origin="lower", aspect="auto", extent=(*times, *frequencies), vmin=low, vmax=high)
        axes.set(xlabel="time (s)" if rate_hz else "packet", title="motion: Doppler, power in dB")
        axes.set(ylabel="frequency (Hz)" if rate_hz else "frequency / packet rate")

    return draw((3.1, 3.1), plot, f"Doppler of {signal.name}")


def draw_channels(figure, signal: Signal):
    columns = min(4, len(signal.values))
    for axes, image in zip(np.atleast_1d(figure.subplots(1, columns, sharey=True)), signal.values):
        low, high = np.quantile(image, [0.01, 0.99])
        axes.imshow(image, origin="lower", aspect="auto", vmin=low, vmax=high + 1e-6, interpolation="nearest")
        axes.set(xlabel="column")
    figure.axes[0].set(ylabel="row")
    if len(signal.values) > 1:
        for number, axes in enumerate(figure.axes):
            axes.set_title(f"channel {number}")


def time_unit(duration_s: float) -> tuple[float, str]:
    return (1, "s") if duration_s >= 1 else (1e3, "ms") if duration_s >= 1e-3 else (1e6, "µs")


def center(signal: Signal) -> tuple[np.ndarray, float]:
    """First samples of antenna 0 with the carrier at 0 Hz and unit power, and the offset in cycles per sample."""
    samples = signal.values[None, :1, :CONSTELLATION_SAMPLES]
    values = torch.from_numpy(samples / max(float(np.abs(samples).max()), 1e-30))  # squares stay in range
    offset = carrier_offset(values)
    values = shift_frequency(values, offset)
    fine = line_offset(values[0, 0].numpy())
    values = shift_frequency(values, offset.new_tensor([fine]))[0, 0].numpy()
    power = np.mean(np.abs(values) ** 2)
    return values / np.sqrt(power) if power > 0 else values, float(offset[0]) + fine


def line_offset(samples: np.ndarray) -> float:
    """What the peak of the spectrum leaves, in cycles per sample: where powers of the samples have a line.

    The square of BPSK and the fourth power of QPSK and QAM have one at two and four times the carrier's frequency; of
    other signals, without a clear line, it is 0.
    """
    size, best = 4 * len(samples), (40.0, 0.0)  # noise has its highest line about 12 times above the median
    for order in (2, 4):
        spectrum = np.abs(np.fft.fft(samples**order, size)) ** 2
        reach = max(1, int(0.05 * order * size))
        near = np.concatenate([spectrum[:reach], spectrum[-reach:]])
        frequencies = np.concatenate([np.arange(reach), np.arange(-reach, 0)]) / (order * size)
        ratio = near.max() / max(np.median(spectrum), 1e-30)
        best = max(best, (float(ratio), float(frequencies[near.argmax()])))
    return best[1]


def plot_constellation(samples: np.ndarray) -> str:
    def plot(figure):
        axes = figure.subplots()
        edge = max(1.6, float(np.quantile(np.abs(samples), 0.995)) * 1.1)
        count, *_ = np.histogram2d(samples.imag, samples.real, 110, [[-edge, edge]] * 2)
        density = np.ma.masked_equal(np.sqrt(count), 0)
        axes.imshow(density, origin="lower", extent=(-edge, edge, -edge, edge), interpolation="nearest")
        axes.axhline(0, color=INK, linewidth=0.5, alpha=0.3)
        axes.axvline(0, color=INK, linewidth=0.5, alpha=0.3)
        axes.set(xlabel="I", ylabel="Q", aspect="equal")

    return draw((3.1, 3.1), plot, "constellation")


def plot_iq(parts: Reconstruction) -> str:
    """Original, masked and reconstructed samples of antenna 0, one below the other."""

    def plot(figure):
        rows = figure.subplots(3, 1, sharex=True, sharey=True)
        antennas, _, samples = parts.original.shape
        segment_length = samples * antennas // parts.num_tokens
        count = min(max(SHOWN_SAMPLES, SHOWN_SEGMENTS * segment_length), samples)
        hidden = np.isnan(parts.masked[0, 0, :count])
        for axes, title in zip(rows, ("original", "masked", "reconstructed")):
            values = getattr(parts, title)[0, :, :count]
            for part, color, name in zip(values, (I_COLOR, Q_COLOR), "IQ"):
                axes.plot(part, linewidth=1, color=color, label=name)
            if title != "original":
                where = {"where": hidden, "step": "mid", "transform": axes.get_xaxis_transform()}
                axes.fill_between(np.arange(count), 0, 1, color=INK, alpha=0.1, linewidth=0, **where)
            axes.set_ylabel(title)
        limit = np.quantile(np.abs(parts.original[0, :, :count]), 0.995) * 1.3 + 1e-6
        rows[0].set(ylim=(-limit, limit), xlim=(0, max(count - 1, 1)))
        rows[0].legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, borderaxespad=0)
        rows[2].set_xlabel("sample of antenna 0; hidden segments are shaded")

    return draw((8.2, 4.2), plot, "original, masked and reconstructed IQ")


def plot_image(parts: Reconstruction) -> str:
    """Original, masked and reconstructed first channel side by side."""

    def plot(figure):
        low, high = np.quantile(parts.original[0], [0.01, 0.99])
        for axes, title in zip(figure.subplots(1, 3), ("original", "masked", "reconstructed")):
            image = np.ma.masked_invalid(getattr(parts, title)[0])
            axes.imshow(image, origin="lower", aspect="auto", vmin=low, vmax=high + 1e-6, interpolation="nearest")
            axes.set(xticks=[], yticks=[], title=title)
            axes.spines[:].set_visible(False)

    return draw((8.2, 2.9), plot, "original, masked and reconstructed image")


def thumbnail(signal: Signal, size: int = 160) -> Image.Image:
    """Spectrogram, amplitude of CSI, or the first channel, without axes."""
    if signal.kind == "iq":
        image = stft_db(signal.values, 64, size)
        low, high = color_limits(image)
        high = max(high, low + 20)  # noise is not to look like a signal
    else:
        image = amplitude(signal) if signal.kind == "csi" else signal.values[0]
        low, high = np.quantile(image, [0.01, 0.99])
    shades = np.clip((image[::-1] - low) / (high - low + 1e-6), 0, 1)
    colors = (matplotlib.colormaps["viridis"](shades)[..., :3] * 255).astype(np.uint8)
    return Image.fromarray(colors).resize((size, size * 3 // 4), Image.Resampling.BILINEAR)
