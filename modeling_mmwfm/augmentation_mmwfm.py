"""What a channel and a receiver do to a recording without changing what was sent: augmentations for training.

Functions of (values, generator, ranges in physical units) -> new values of the same shape and type; the input is left
alone. Each row of the batch (first axis) draws for itself. IQ is (B, A antennas, T) complex64. Images are (B, C, H, W)
float32 with time along W: spectrograms (frequency along H) or CSI (antennas, subcarriers, packets).
"""

from dataclasses import dataclass, fields

import numpy as np


def shift_frequency(iq: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Multiply (B, A, T) complex64 by exp(2 pi i shift t), shifts (B,) in cycles per sample."""
    turns = np.multiply.outer(np.asarray(shifts, np.float64), np.arange(iq.shape[-1]))
    return iq * _phasor(turns)[:, None]


def shift_carrier(iq: np.ndarray, generator: np.random.Generator, largest: float) -> np.ndarray:
    """Move the carrier by up to `largest` cycles per sample, either way: another channel, another oscillator."""
    return shift_frequency(iq, generator.uniform(-largest, largest, len(iq)))


def shift_time(iq: np.ndarray, generator: np.random.Generator, largest: int, cyclic: bool = True) -> np.ndarray:
    """Delay or advance by up to `largest` whole samples.

    Cyclic: what leaves at one end comes in at the other, which keeps the spectrum's magnitude. Else zeros come in.
    """
    samples = iq.shape[-1]
    source = np.arange(samples) - generator.integers(-largest, largest, len(iq), endpoint=True)[:, None]
    shifted = np.take_along_axis(iq, (source % samples)[:, None], axis=-1)
    if not cyclic:
        shifted[np.broadcast_to(((source < 0) | (source >= samples))[:, None], iq.shape)] = 0
    return shifted


def rotate_phase(iq: np.ndarray, generator: np.random.Generator, largest: float = np.pi) -> np.ndarray:
    """Turn all antennas by one phase of up to `largest` radians, either way: the angles between antennas stay."""
    return iq * _phasor(generator.uniform(-largest, largest, (len(iq), 1, 1)) / (2 * np.pi))


def gain(iq: np.ndarray, generator: np.random.Generator, gain_db: tuple[float, float]) -> np.ndarray:
    """One gain for all antennas, drawn between two levels in dB."""
    return iq * _amplitude(generator.uniform(*gain_db, (len(iq), 1, 1)))


def clock_offset(iq: np.ndarray, generator: np.random.Generator, largest_ppm: float) -> np.ndarray:
    """Sample at a rate that is off by up to `largest_ppm` parts per million, either way.

    By FFT, exact for the window's band-limited periodic continuation: its Fourier series is evaluated at the times
    (1 + e) t by Bluestein's chirp transform; linear interpolation would lose the high frequencies. A tone of f cycles
    per sample comes out at f (1 + e). The last e T samples are the continuation's.
    """
    samples = iq.shape[-1]
    rate = 1 + 1e-6 * generator.uniform(-largest_ppm, largest_ppm, (len(iq), 1, 1))
    frequency = np.arange(samples) - samples // 2
    lag = np.arange(1 - samples, samples) + samples // 2  # every t - k
    # k t = (k^2 + t^2 - (t - k)^2) / 2 turns the series over k into one convolution.
    chirp = rate / (2 * samples)
    series = np.fft.fftshift(np.fft.fft(iq), axes=-1) * _phasor(chirp * frequency**2) * np.float32(1 / samples)
    size = _fft_size(2 * samples - 1)
    product = np.fft.fft(series, size) * np.fft.fft(_phasor(-chirp * lag**2), size)
    return np.fft.ifft(product)[..., samples - 1 : 2 * samples - 1] * _phasor(chirp * np.arange(samples) ** 2)


def add_noise(iq: np.ndarray, generator: np.random.Generator, snr_db: tuple[float, float]) -> np.ndarray:
    """White Gaussian noise at a signal-to-noise ratio drawn between two levels in dB.

    The signal's power is the row's mean over antennas and time, with the noise that it has already; all antennas get
    noise of the same power. A silent row stays silent.
    """
    power = 2 * np.square(_real(iq), dtype=np.float64).mean((1, 2), keepdims=True)
    deviation = np.sqrt(power) * _amplitude(-generator.uniform(*snr_db, (len(iq), 1, 1)))
    return iq + deviation.astype(np.float32) * _gaussian(generator, iq.shape)


def fading(
    iq: np.ndarray,
    generator: np.random.Generator,
    delay_spread_samples: tuple[float, float],
    rician_k_db: tuple[float, float] | None = None,
    largest_doppler: float = 0.0,
) -> np.ndarray:
    """Multipath: Rayleigh taps of exponentially falling power one sample apart, other ones for each antenna.

    The mean power of the channel is 1. What arrives before the window is taken for zero.

    Args:
        delay_spread_samples: range of the rms delay spread of the scattered paths, in samples; 0 is flat fading.
        rician_k_db: range of the power ratio of a direct path, at delay 0 and of random phase, to the scattered ones;
            None: no direct path.
        largest_doppler: each row's scattered taps turn between two independent channels at up to this many cycles per
            sample: their correlation over d samples is cos(2 pi f d), two lines of Doppler at +-f.
    """
    batch_size, antennas, samples = iq.shape
    spread = generator.uniform(*delay_spread_samples, batch_size)[:, None]
    # Powers (1 - q) q^n have the rms spread sqrt(q) / (1 - q); cut where .1 % of the power is left.
    decay = 2 * spread**2 / (2 * spread**2 + 1 + np.sqrt(4 * spread**2 + 1))
    num_taps = 1 + int(np.ceil(np.log(1e-3) / np.log(max(decay.max(), 1e-9))))
    power = decay ** np.arange(min(num_taps, samples))
    power /= power.sum(1, keepdims=True)
    direct = np.zeros((batch_size, 1, 1))
    if rician_k_db is not None:
        ratio = 10 ** (generator.uniform(*rician_k_db, (batch_size, 1, 1)) / 10)
        direct = np.sqrt(ratio / (1 + ratio))
    turn = _phasor(generator.random((batch_size, antennas, 1)))
    scale = np.sqrt((1 - direct**2) * power[:, None]).astype(np.float32)
    size = _fft_size(samples + power.shape[1] - 1)
    spectrum = np.fft.fft(iq, size)

    def scattered():
        taps = scale * _gaussian(generator, (batch_size, antennas, power.shape[1]))
        return np.fft.ifft(spectrum * np.fft.fft(taps, size))[..., :samples]

    faded = scattered()
    if largest_doppler:
        turns = generator.uniform(0, largest_doppler, (batch_size, 1, 1)) * np.arange(samples)
        weight = _phasor(turns + generator.random((batch_size, 1, 1)))
        faded = faded * weight.real + scattered() * weight.imag
    return faded + direct.astype(np.float32) * turn * iq


def drop_antennas(iq: np.ndarray, generator: np.random.Generator, probability: float) -> np.ndarray:
    """Set each antenna to zero with a probability; one drawn antenna of each row always stays."""
    keep = generator.random(iq.shape[:2]) >= probability
    keep[np.arange(len(iq)), generator.integers(iq.shape[1], size=len(iq))] = True
    return iq * keep[..., None].astype(np.float32)


def crop_and_resize(image: np.ndarray, generator: np.random.Generator, largest_cut: float, axis: int) -> np.ndarray:
    """Cut away up to this share of an axis, at a random place, and stretch the rest linearly to the old length.

    Axis 3: less time, slower. Axis 2: a narrower band.
    """
    length = image.shape[axis]
    share = 1 - generator.uniform(0, largest_cut, (len(image), 1))
    start = generator.random((len(image), 1)) * (1 - share) * length
    place = np.clip(start + (np.arange(length) + 0.5) * share - 0.5, 0, length - 1)
    before = np.minimum(place.astype(np.int64), max(length - 2, 0))
    weight = _along(place - before, axis).astype(np.float32)
    first = np.take_along_axis(image, _along(before, axis), axis)
    second = np.take_along_axis(image, _along(np.minimum(before + 1, length - 1), axis), axis)
    return first + weight * (second - first)


def mask_span(image: np.ndarray, generator: np.random.Generator, largest_share: float, axis: int) -> np.ndarray:
    """Replace one span of up to this share of an axis by the mean of the row's channel. Axis 3: time, 2: frequency."""
    length = image.shape[axis]
    size = generator.uniform(0, largest_share, (len(image), 1)) * length
    start = generator.random((len(image), 1)) * (length - size)
    place = np.arange(length) + 0.5
    inside = _along((place >= start) & (place < start + size), axis)
    return np.where(inside, image.mean((2, 3), keepdims=True), image)


def packet_gain(image: np.ndarray, generator: np.random.Generator, deviation_db: float) -> np.ndarray:
    """Multiply each packet of CSI amplitudes by its own gain, normal in dB, the same for all antennas and subcarriers.

    It is what a gain control leaves; the view `remove_packet_mean` takes it away.
    """
    return image * _amplitude(generator.normal(0, deviation_db, (len(image), 1, 1, image.shape[3])))


@dataclass(frozen=True)
class Augmentations:
    """Which augmentations, and how strong: None is off, and so is 0 where no range is asked for.

    Args:
        delay_spread_samples, rician_k_db, largest_doppler: of `fading`, which the first turns on; Doppler in cycles
            per sample.
        time_shift_samples, cyclic: of `shift_time`.
        carrier_shift: of `shift_carrier`, cycles per sample; 0.5 takes the carrier's place away as a clue.
        clock_offset_ppm: of `clock_offset`.
        phase_rad: of `rotate_phase`; pi is any phase.
        gain_db: range of `gain`.
        snr_db: range of `add_noise`.
        antenna_dropout: probability of `drop_antennas`.
        packet_gain_db: deviation of `packet_gain`, for CSI amplitudes.
        time_crop, frequency_crop: largest share that `crop_and_resize` cuts away.
        time_mask, frequency_mask: largest share that `mask_span` hides.

    Raises:
        ValueError: a number out of its range.
    """

    delay_spread_samples: tuple[float, float] | None = None
    rician_k_db: tuple[float, float] | None = None
    largest_doppler: float = 0.0
    time_shift_samples: int = 0
    cyclic: bool = True
    carrier_shift: float = 0.0
    clock_offset_ppm: float = 0.0
    phase_rad: float = 0.0
    gain_db: tuple[float, float] | None = None
    snr_db: tuple[float, float] | None = None
    antenna_dropout: float = 0.0
    packet_gain_db: float = 0.0
    time_crop: float = 0.0
    frequency_crop: float = 0.0
    time_mask: float = 0.0
    frequency_mask: float = 0.0

    def __post_init__(self):
        ranges = ("delay_spread_samples", "rician_k_db", "gain_db", "snr_db")
        limits = {"largest_doppler": 0.5, "carrier_shift": 0.5, "phase_rad": np.pi, "clock_offset_ppm": 1e5}
        limits |= dict.fromkeys(("antenna_dropout", "time_crop", "frequency_crop", "time_mask", "frequency_mask"), 1)
        for name in (field.name for field in fields(self) if field.name != "cyclic"):
            value = getattr(self, name)
            if value is None:
                continue
            numbers = list(value) if name in ranges and isinstance(value, (list, tuple)) else [value]
            low, high = (-np.inf, np.inf) if name in ranges else (0, limits.get(name, np.inf))
            low = 0 if name == "delay_spread_samples" else low
            kind = int if name == "time_shift_samples" else (int, float)
            valid = all(
                isinstance(number, kind) and low <= number <= high and np.isfinite(number) for number in numbers
            )
            if not valid or len(numbers) != 1 + (name in ranges) or numbers != sorted(numbers):
                form = "two finite numbers in ascending order," if name in ranges else "a finite number"
                form = "a whole number" if kind is int else form
                raise ValueError(f"`{name}`: expected {form} from {low:g} to {high:g}, found {value!r}")

    def __call__(self, columns: dict, generator: np.random.Generator) -> dict:
        """Columns of a batch, with `iq` (B, A, T, 2) float32, `image` (B, C, H, W) or both -> the same, augmented.

        Everything is drawn from `generator`, and nothing for what is off. Other columns stay.
        """
        columns = dict(columns)
        if "iq" in columns:
            iq = np.ascontiguousarray(columns["iq"], dtype=np.float32)
            columns["iq"] = _real(self.augment_iq(iq.view(np.complex64)[..., 0], generator)).reshape(iq.shape)
        if "image" in columns:
            columns["image"] = self.augment_image(np.asarray(columns["image"], dtype=np.float32), generator)
        return columns

    def augment_iq(self, iq: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """(B, A, T) complex64, in the order in which a radio link does it."""
        if self.time_shift_samples:
            iq = shift_time(iq, generator, self.time_shift_samples, self.cyclic)
        if self.delay_spread_samples is not None:
            iq = fading(iq, generator, self.delay_spread_samples, self.rician_k_db, self.largest_doppler)
        if self.carrier_shift:
            iq = shift_carrier(iq, generator, self.carrier_shift)
        if self.clock_offset_ppm:
            iq = clock_offset(iq, generator, self.clock_offset_ppm)
        if self.phase_rad:
            iq = rotate_phase(iq, generator, self.phase_rad)
        if self.gain_db is not None:
            iq = gain(iq, generator, self.gain_db)
        if self.snr_db is not None:
            iq = add_noise(iq, generator, self.snr_db)
        if self.antenna_dropout:
            iq = drop_antennas(iq, generator, self.antenna_dropout)
        return iq

    def augment_image(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """(B, C, H, W) float32."""
        if self.packet_gain_db:
            image = packet_gain(image, generator, self.packet_gain_db)
        for axis, crop, mask in (
            (3, self.time_crop, self.time_mask),
            (2, self.frequency_crop, self.frequency_mask),
        ):
            if crop:
                image = crop_and_resize(image, generator, crop, axis)
            if mask:
                image = mask_span(image, generator, mask, axis)
        return image


def _phasor(turns: np.ndarray) -> np.ndarray:
    """exp(2 pi i turns) as complex64; folded to one turn in float64, where float32 would lose the phase."""
    angle = (2 * np.pi * (turns - np.round(turns))).astype(np.float32)
    phasor = np.empty(angle.shape, np.complex64)
    np.cos(angle, out=phasor.real)
    np.sin(angle, out=phasor.imag)
    return phasor


def _fft_size(samples: int) -> int:
    """The next power of two."""
    return 1 << (samples - 1).bit_length()


def _amplitude(decibels: np.ndarray) -> np.ndarray:
    return (10 ** (decibels / 20)).astype(np.float32)


def _real(values: np.ndarray) -> np.ndarray:
    """complex64 (..., T) -> float32 (..., 2 T), I and Q interleaved."""
    return np.ascontiguousarray(values).view(np.float32)


def _gaussian(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Circular complex64 of unit power."""
    parts = generator.standard_normal((*shape[:-1], 2 * shape[-1]), dtype=np.float32)
    return parts.view(np.complex64) * np.float32(np.sqrt(0.5))


def _along(values: np.ndarray, axis: int) -> np.ndarray:
    """(B, length) -> broadcast along an axis of (B, C, H, W)."""
    return np.expand_dims(values, [other for other in (1, 2, 3) if other != axis])
