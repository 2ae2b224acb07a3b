"""Views of IQ and CSI that take away what a receiver adds: the carrier's place, the gain control, the static channel.

Everything works on whole batches of tensors, on any device.
"""

from fractions import Fraction

import numpy as np
import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Packet rates are themselves measured: closer ones are the same. Far below the width of a Doppler bin.
PACKET_RATE_TOLERANCE = 5e-3


def match_rate(
    values: torch.Tensor, fitted_hz: float | None, given_hz: float | None, resample: bool, name: str
) -> torch.Tensor:
    """Values (..., T) at the given rate -> at the fitted one.

    Args:
        fitted_hz: None accepts any rate.
        given_hz: None is taken for the fitted rate, with a warning.
        resample: convert along the last axis instead of refusing another rate.
        name: "sampling_rate_hz", or "packet_rate_hz" with its wider tolerance.

    Raises:
        ValueError: a rate that is not positive, another rate without `resample`, `resample` without both rates.
    """
    tolerance = PACKET_RATE_TOLERANCE if name == "packet_rate_hz" else 1e-6
    if given_hz is not None and not given_hz > 0:
        raise ValueError(f"`{name}`: expected a positive number, found {given_hz}")
    if resample and (fitted_hz is None or given_hz is None):
        kind = name.removesuffix("_hz").replace("_", " ")
        raise ValueError(f"`resample`: expected a fitted and a given {kind}, found {fitted_hz} and {given_hz}")
    if fitted_hz is None:
        return values
    if given_hz is None:
        logger.warning_once(f"`{name}` is not given; assuming the fitted {fitted_hz:g} Hz.")
        return values
    if abs(given_hz / fitted_hz - 1) <= tolerance:
        return values
    if not resample:
        raise ValueError(
            f"`{name}`: expected {fitted_hz:g}, which this processor was fitted for, found {given_hz:g}; "
            "`resample=True` converts"
        )
    return resample_polyphase(values, given_hz, fitted_hz, name)


def resample_polyphase(
    values: torch.Tensor, from_hz: float, to_hz: float, name: str = "sampling_rate_hz"
) -> torch.Tensor:
    """Resample (..., T), float32 or complex64, by a Kaiser-windowed sinc in polyphase form.

    T becomes ceil(T * to_hz / from_hz). The passband ends at 90 % of the smaller Nyquist frequency; images are
    suppressed by about 70 dB. Beyond its ends a signal is taken for zero, and a series of packets
    (`name="packet_rate_hz"`) for its last value, because CSI has a large mean.
    """
    packets = name == "packet_rate_hz"
    limit, tolerance = (200, PACKET_RATE_TOLERANCE) if packets else (2000, 1e-5)
    ratio = Fraction(to_hz / from_hz).limit_denominator(limit)
    up, down = ratio.numerator, ratio.denominator
    if abs(float(ratio) * from_hz / to_hz - 1) > tolerance:
        raise ValueError(
            f"`{name}`: expected a rate whose ratio to {to_hz:g} Hz is near one of whole numbers up to {limit}, "
            f"found {from_hz:g}"
        )
    cutoff = 0.95 * min(1.0, up / down)  # centre of the transition band, in units of the input's Nyquist frequency
    half_width = int(np.ceil(48 / cutoff))
    offsets = torch.arange(-half_width, half_width + down, dtype=torch.float64)
    distance = torch.arange(up, dtype=torch.float64)[:, None] * down / up - offsets
    inside = (1 - (distance / half_width).square()).clamp(min=0)
    window = torch.special.i0(7.0 * inside.sqrt()) / torch.special.i0(torch.tensor(7.0, dtype=torch.float64))
    kernel = cutoff * torch.special.sinc(cutoff * distance) * window * (distance.abs() <= half_width)
    if packets:  # each phase passes a constant unchanged: a large mean would ripple with the packets
        kernel = kernel / kernel.sum(1, keepdim=True)
    parts = torch.view_as_real(values).movedim(-1, 0) if values.is_complex() else values[None]
    samples = parts.shape[-1]
    signal = torch.nn.functional.pad(
        parts.reshape(-1, 1, samples), (half_width, half_width + down), mode="replicate" if packets else "constant"
    )
    phases = torch.nn.functional.conv1d(signal, kernel[:, None].to(signal), stride=down)  # (signals, up, frames)
    signal = phases.transpose(1, 2).flatten(1)[:, : -(-samples * up // down)]
    signal = signal.reshape(*parts.shape[:-1], -1)
    return torch.view_as_complex(signal.movedim(0, -1).contiguous()) if values.is_complex() else signal[0]


def carrier_offset(values: torch.Tensor) -> torch.Tensor:
    """Where the power of (B, A, T) complex64 IQ is: (B,) float64, cycles per sample in [-0.5, 0.5].

    The peak of |FFT|^2, summed over the antennas and smoothed in circular fashion as widely as by a moving average over
    max(4, T / 64) bins; 0 for a silent recording. A shift of the recording by any frequency moves it by just as much,
    which a plain moving average would not give: the average is Gaussian (of the same standard deviation), because a
    line under a rectangle has a flat top; the FFT is padded to 2 T, because T bins alias the autocorrelation; and the
    peak is read between bins, from a parabola through the logarithms.
    """
    samples = values.shape[-1]
    spectrum = torch.fft.fft(values, 2 * samples)
    power = (spectrum.real.double().square() + spectrum.imag.double().square()).sum(1)
    deviation = max(4, samples // 64) / 12**0.5
    lag = torch.arange(samples + 1, dtype=torch.float64, device=values.device) / samples
    smooth = torch.fft.irfft(
        torch.fft.rfft(power) * torch.exp(-2 * (torch.pi * deviation * lag).square()), 2 * samples
    )
    peak = smooth.argmax(1, keepdim=True)
    around = (peak + torch.tensor([-1, 0, 1], device=values.device)) % (2 * samples)
    left, middle, right = smooth.gather(1, around).clamp(min=torch.finfo(torch.float64).tiny).log().unbind(1)
    curvature = left - 2 * middle + right
    between = torch.where(curvature < 0, (left - right) / (2 * curvature), 0.0)
    offset = (peak[:, 0] + between) / (2 * samples)
    return offset - offset.round()


def shift_frequency(values: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Multiply (B, A, T) complex64 by exp(-2 pi i offset t), offset (B,) in cycles per sample: it moves to 0 Hz."""
    # In float64 and folded to one turn first: float32 loses the phase of late samples.
    turns = offset.double()[:, None] * torch.arange(values.shape[-1], dtype=torch.float64, device=values.device)
    angle = (-2 * torch.pi * (turns - turns.round())).float()
    return values * torch.polar(torch.ones_like(angle), angle)[:, None]


def center_peak(power: torch.Tensor) -> torch.Tensor:
    """Roll the rows of (B, C, F, frames) power spectrograms so that the peak of their time mean is in row F // 2."""
    rows = power.shape[2]
    peak = power.mean((1, 3)).argmax(1)
    order = (torch.arange(rows, device=power.device) + peak[:, None] - rows // 2) % rows
    return power.gather(2, order[:, None, :, None].expand(power.shape))


def check_unit(unit: str | None):
    if unit not in (None, "linear", "db"):
        raise ValueError(f"`unit`: expected 'linear', 'db' or None, found {unit!r}")


def find_unit(parts: list[torch.Tensor]) -> str:
    """ "db" if more than 1 % of the values are negative, which amplitudes cannot be; else "linear"."""
    negative = sum((part < 0).sum().item() for part in parts if not part.is_complex())
    if negative <= 0.01 * sum(part.numel() for part in parts):
        return "linear"
    logger.warning_once("`csi` holds negative values: it is taken for dB; `unit` says what it is.")
    return "db"


def linear_csi(values: torch.Tensor, unit: str) -> torch.Tensor:
    """CSI in its unit -> complex64, or linear amplitude float32."""
    if values.is_complex():
        if unit == "db":
            raise ValueError("`unit`: expected 'linear' for complex CSI, found 'db'")
        return values.to(torch.complex64)
    return 10 ** (values.float() / 20) if unit == "db" else values.float()


def amplitude_db(values: torch.Tensor) -> torch.Tensor:
    """CSI, complex or amplitude, -> 20 log10(|values| + 1e-6), float32.

    Raises:
        ValueError: real values of which more than 1 % are negative; measured archives hold a few, whose sign is
            ignored.
    """
    if not values.is_complex():
        negative = (values < 0).float().mean().item()
        if negative > 0.01:
            raise ValueError(f"`csi_to_db`: expected amplitudes, found {negative:.0%} negative values (decibels?)")
    return 20 * torch.log10(values.abs().float() + 1e-6)


def fill_unused(values: torch.Tensor) -> torch.Tensor:
    """Linear CSI (B, C, subcarriers, T), complex or amplitude, -> amplitude without the gaps of guards and DC.

    Chips report unused subcarriers, at other places each, as zeros or as small numbers that do not move with the gain.
    A subcarrier whose mean amplitude on all antennas is below 3 % of the recording's rms takes the values of the
    nearest other one; single values below 3 % (-30 dB) are raised to it, where the steps of a converter would show as
    motion. A recording of zeros stays as it is.
    """
    amplitude = values.abs()
    floor = 0.03 * amplitude.square().mean((1, 2, 3), keepdim=True).sqrt()
    used = (amplitude.mean(3, keepdim=True) > floor).any(1)[..., 0]  # (B, subcarriers)
    place = torch.arange(used.shape[1], device=used.device)
    distance = (place[:, None] - place).abs() + used.shape[1] * ~used[:, None]
    nearest = distance.argmin(2)[:, None, :, None]  # itself, if it is in use
    return amplitude.gather(2, nearest.expand_as(amplitude)).maximum(floor)


def check_doppler(doppler: dict[str, int]) -> dict[str, int]:
    """`doppler` with its defaults; ValueError if it cannot be."""
    settings = {"num_groups": 14, "window": 32, "bins": 16}
    if not isinstance(doppler, dict) or not doppler.keys() <= settings.keys():
        raise ValueError(f"`doppler`: expected a dict of {', '.join(settings)}, found {doppler}")
    settings |= doppler
    for key, number in settings.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"`doppler`: expected a positive whole number for {key}, found {number!r}")
    if settings["bins"] > settings["window"] // 2 + 1:
        raise ValueError(
            f"`doppler`: expected at most {settings['window'] // 2 + 1} bins of a window of {settings['window']} "
            f"packets, found {settings['bins']}"
        )
    return settings


def doppler_image(
    values: torch.Tensor, width: int, num_groups: int, window: int, bins: int, merge_antennas: bool = False
) -> torch.Tensor:
    """CSI (B, C, subcarriers, T) float32 -> Doppler over time (B, C, num_groups * bins, frames) float32.

    Power of a Hann STFT over time (`window` packets, unscaled; bin k is k / window cycles per packet, 0 first),
    averaged over `num_groups` groups of neighbouring subcarriers, 10 log10(. + 1e-2), the groups one below the other.
    The hop is max(1, T // width), so that there are at least about `width` frames where T allows, and at most half a
    window, so that none is passed over. Fewer packets than the window are continued by the last one, and of fewer
    subcarriers than groups each serves several groups.

    Args:
        merge_antennas: C becomes 1, the mean power over the antennas.
    """
    subcarriers, packets = values.shape[2:]
    if packets < window:
        values = torch.cat([values, values[..., -1:].expand(*values.shape[:-1], window - packets)], -1)
        packets = window
    # As a matrix: few bins of a short window are faster so than by FFT.
    angle = 2 * torch.pi / window * torch.arange(window)[:, None] * torch.arange(bins)
    hann = torch.hann_window(window)[:, None]
    basis = torch.cat([hann * angle.cos(), hann * angle.sin()], 1).to(values)
    if subcarriers < num_groups:
        average = torch.nn.functional.one_hot(torch.arange(num_groups) * subcarriers // num_groups, subcarriers)
    else:
        average = torch.nn.functional.one_hot(torch.arange(subcarriers) * num_groups // subcarriers, num_groups).T
    average = average.to(values)
    average = average / average.sum(1, keepdim=True)
    hop = min(max(1, packets // width), max(1, window // 2))
    frames = 1 + (packets - window) // hop
    image = values.new_empty(*values.shape[:2], num_groups, bins, frames)
    # By parts of a bounded size: the STFT is much larger than the CSI and the image.
    size = max(1, 2**20 // (subcarriers * frames * 2 * bins))
    for part, out in zip(values.flatten(0, 1).split(size), image.flatten(0, 1).split(size)):
        squares = (part.unfold(-1, window, hop) @ basis).square_()  # (rows, subcarriers, frames, 2 bins)
        power = (average @ squares.flatten(2)).unflatten(2, squares.shape[2:])
        out.copy_((power[..., :bins] + power[..., bins:]).transpose(2, 3))
    if merge_antennas:
        image = image.mean(1, keepdim=True)
    return (10 * torch.log10(image.add_(1e-2))).flatten(2, 3)
