"""From recordings in memory to the model's input: `MMWFMProcessor` and the same in NumPy and SciPy."""

import numpy as np
import scipy.fft

from modeling_mmwfm import MMWFMImageProcessor, MMWFMProcessor

from .scale import Scale
from .timing import Call, take_turns

N_FFT, HOP = 1024, 512  # of the processor's spectrogram view


def iq_values(iq: np.ndarray) -> np.ndarray:
    """(B, A, T) complex64 -> (B, A, 2, T) float32 of unit power."""
    power = (iq.real**2 + iq.imag**2).mean((1, 2), keepdims=True)
    iq = iq / np.sqrt(power)
    return np.stack([iq.real, iq.imag], 2)


def resize_matrix(old: int, new: int) -> np.ndarray:
    """(new, old) weights of bicubic interpolation with antialiasing."""
    stretch = max(1.0, old / new)
    center = (np.arange(new)[:, None] + 0.5) * old / new
    distance = np.abs(np.arange(old) + 0.5 - center) / stretch
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def pixel_values(images: np.ndarray, size: int) -> np.ndarray:
    """(B, C, H, W) -> (B, C, size, size) of zero mean and unit variance."""
    images = resize_matrix(images.shape[2], size) @ images @ resize_matrix(images.shape[3], size).T
    mean, std = (function(images, axis=(1, 2, 3), keepdims=True) for function in (np.mean, np.std))
    return (images - mean) / std


def spectrogram_values(iq: np.ndarray, size: int, threads: int) -> np.ndarray:
    """(B, A, T) complex64 -> (B, 1, size, size)."""
    window = np.hanning(N_FFT + 1)[:-1].astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(iq, N_FFT, axis=-1)[..., ::HOP, :] * window
    spectrum = scipy.fft.fft(frames, workers=threads)
    power = (spectrum.real**2 + spectrum.imag**2).mean(1, keepdims=True)
    decibels = 10 * np.log10(np.fft.fftshift(power, axes=-1) + np.float32(1e-12))
    return pixel_values(decibels.swapaxes(2, 3), size)


def complex_noise(shape: tuple[int, ...]) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.standard_normal((*shape, 2), dtype=np.float32).view(np.complex64)[..., 0]


def prepare(scale: Scale) -> dict[str, tuple]:
    """Kind -> input, our function and the reference's."""
    size = {"height": scale.image_size, "width": scale.image_size}
    processor = MMWFMProcessor(image_processor=MMWFMImageProcessor(size=size))
    csi = np.random.default_rng(0).standard_normal((scale.batch_size, *scale.csi_shape), dtype=np.float32)
    captures = complex_noise((scale.batch_size, 1, N_FFT + HOP * (scale.spectrogram_frames - 1)))
    return {
        "IQ windows": (
            complex_noise((scale.batch_size, scale.antennas, scale.samples)),
            lambda values: processor(iq=values)["iq_values"],
            iq_values,
        ),
        "spectrograms": (
            captures,
            lambda values: processor(iq=values, views=("spectrogram",))["pixel_values"],
            lambda values: spectrogram_values(values, scale.image_size, scale.threads),
        ),
        "CSI": (
            csi,
            lambda values: processor(images=values)["pixel_values"],
            lambda values: pixel_values(values, scale.image_size),
        ),
    }


def measure(scale: Scale) -> dict[str, dict]:
    calls = {}
    for kind, (values, ours, reference) in prepare(scale).items():
        calls[f"{kind}, ours"] = Call(lambda f=ours, v=values: f(v), scale.batch_size)
        calls[f"{kind}, NumPy"] = Call(lambda f=reference, v=values: f(v), scale.batch_size)
    return take_turns(calls, scale)
