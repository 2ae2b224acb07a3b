"""Radio front ends and channels: pure functions on complex baseband arrays, time on the last axis."""

from typing import NamedTuple

import numpy as np
from scipy import fft

from processing.simulation.waveforms import complex_normal, phasor


def mean_power(samples):
    """Mean of |x|^2 over time."""
    return np.vecdot(samples, samples).real / samples.shape[-1]


def iq_imbalance(samples, gain_db, phase_deg):
    """Q branch `gain_db` stronger and `phase_deg` off 90 degrees: x -> (1+k)/2 x + (1-k*)/2 x*, k = g e^jp."""
    k = 10 ** (gain_db / 20) * np.exp(1j * np.deg2rad(phase_deg))
    return np.complex64((1 + k) / 2) * samples + np.complex64((1 - np.conj(k)) / 2) * np.conj(samples)


def lo_leakage(samples, level_dbc, phase_rad):
    """Adds the carrier at `level_dbc` relative to the mean power of the samples."""
    amplitude = np.sqrt(mean_power(samples) * 10 ** (level_dbc / 10))
    return samples + np.complex64(amplitude * np.exp(1j * phase_rad))


def rapp_amplifier(samples, input_backoff_db, smoothness=2.0, phase_rad=0.0):
    """Rapp power amplifier of small-signal gain one: soft limit of the envelope and a phase shift that grows with it.

    Args:
        input_backoff_db: saturation power over mean input power.
        smoothness: Rapp's p; the larger, the sharper the knee.
        phase_rad: AM/PM far into saturation.
    """
    drive = (samples.real**2 + samples.imag**2) / (mean_power(samples) * 10 ** (input_backoff_db / 10))
    gain = (1 + drive**smoothness) ** (-0.5 / smoothness)
    if phase_rad:
        gain = gain * phasor(phase_rad / (2 * np.pi) * (drive / (1 + drive)))
    return samples * gain.astype(np.complex64)


def carrier_offset(num_samples, offset_hz, sampling_rate_hz):
    """Phasor of a carrier frequency offset."""
    return phasor(offset_hz / sampling_rate_hz * np.arange(num_samples))


def phase_noise(rng, num_samples, linewidth_hz, sampling_rate_hz, offset_hz=0.0):
    """Phasor of a free-running oscillator: Wiener phase whose line is `linewidth_hz` wide (3 dB, two-sided).

    `offset_hz` is the line's frequency.
    """
    step_cycles = rng.standard_normal(num_samples)
    step_cycles *= np.sqrt(linewidth_hz / (2 * np.pi * sampling_rate_hz))
    step_cycles += offset_hz / sampling_rate_hz
    return phasor(np.cumsum(step_cycles))


def awgn(rng, samples, snr_db, signal_power=None):
    """Adds white noise `snr_db` below `signal_power` (default: mean power over all axes)."""
    signal_power = mean_power(samples).mean() if signal_power is None else signal_power
    noise = complex_normal(rng, samples.shape)
    noise *= np.float32(np.sqrt(signal_power * 10 ** (-snr_db / 10)))
    return samples + noise


class Channel(NamedTuple):
    """Static multipath channel: `delays_s` (paths,), complex `gains` (antennas, paths), the first path is the LOS."""

    delays_s: np.ndarray
    gains: np.ndarray


def rms_delay_spread_s(delays_s, powers):
    """Power-weighted standard deviation of the path delays."""
    powers = powers / powers.sum()
    return np.sqrt(powers @ (delays_s - powers @ delays_s) ** 2)


def simo_channel(rng, num_antennas, delay_spread_s, k_factor_db, num_paths=20):
    """Line of sight plus diffuse paths at a linear array of half-wavelength spacing; mean power gain one.

    Diffuse powers fall off exponentially with delay and arrive from the half-plane in front of the array. Delays are
    scaled so that the rms delay spread, line of sight included, is exactly `delay_spread_s` (3GPP TR 38.901, 7.7.3).
    """
    # delays are drawn with an exponential density, so that equal mean powers already give an exponential profile
    delays, powers = rng.standard_exponential((2, num_paths + 1))
    delays[0], powers[0] = 0, num_paths * 10 ** (k_factor_db / 10)
    delays.sort()
    powers /= powers.sum()
    delays *= delay_spread_s / rms_delay_spread_s(delays, powers)
    azimuth, phase = np.pi * (rng.random((2, num_paths + 1)) - 0.5)
    phases = np.multiply.outer(np.arange(num_antennas), np.pi * np.sin(azimuth)) + 2 * phase
    return Channel(delays, np.sqrt(powers) * np.exp(1j * phases))


def frequency_response(channel, num_bins, sampling_rate_hz):
    """(antennas, num_bins) complex64 response at the frequencies of `scipy.fft.fftfreq`.

    On an even grid a path's phasors are a product of coarse and fine steps, which takes far fewer exponentials.
    """
    num_fine = int(np.ceil(np.sqrt(num_bins)))
    coarse = np.arange(0, num_bins, num_fine) - num_bins // 2
    cycles_per_bin = channel.delays_s * (-sampling_rate_hz / num_bins)
    fine_phasors = phasor(np.multiply.outer(cycles_per_bin, np.arange(num_fine)))
    weighted = channel.gains.astype(np.complex64)[:, None, :] * phasor(np.multiply.outer(coarse, cycles_per_bin))
    response = (weighted @ fine_phasors).reshape(len(weighted), -1)
    return np.concatenate([response[:, num_bins // 2 : num_bins], response[:, : num_bins // 2]], axis=1)


def apply_channel(samples, channel, sampling_rate_hz):
    """(time,) -> (antennas, time), with fractional delays applied in the frequency domain.

    The convolution is circular: the caller cuts off the ends, by more than the longest delay.
    """
    response = frequency_response(channel, len(samples), sampling_rate_hz)
    response *= fft.fft(samples)
    return fft.ifft(response, axis=-1, overwrite_x=True)
