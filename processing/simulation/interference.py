"""Interference in an LTE downlink: none, or a direct-sequence spread-spectrum signal with BPSK or QPSK data.

A cell of 5 or 10 MHz is received at a nearly constant level. The interferer has the same mean power or up to 6 dB
less, and lies inside the band. Absolute level is kept: that the level rises is part of how interference is detected,
and how much it tells depends on `gain_jitter_db`. BPSK and QPSK have the same level and spectrum; they differ in the
square of the signal only. Channels are flat.
"""

import json

import numpy as np
from scipy import fft

from processing import schema
from processing.simulation import impairments, ofdm, random_generator
from processing.simulation.waveforms import random_cut, random_symbols

TASK = "interference"
DEFAULT_SAMPLES = 6000
SPLITS = {"train": 0.7, "validation": 0.1, "test": 0.2}
OPTIONS = {}
LABEL_NAMES = ["lte", "bpsk-dsss", "qpsk-dsss"]

WINDOW_SAMPLES = 4096
GUARD_SAMPLES = 256  # on both sides: 16 chips of the slowest interferer, the reach of its pulses
CENTER_FREQUENCY_HZ = 2.685e9
CHIPS_PER_SYMBOL = 31
CHIP_ROLLOFF = 0.35
LTE_LEVEL_DBFS = -49.0  # a receiver that is not driven hard: 0.0025 of full scale on I and Q
GAIN_JITTER_DB = 0.5  # standard deviation of the level from recording to recording


def root_raised_cosine_spectrum(frequency, rolloff):
    """Amplitude spectrum of a root raised cosine pulse, one at frequency 0; `frequency` over the symbol rate."""
    edge = (np.abs(frequency) - (1 - rolloff) / 2) / rolloff
    return np.cos(np.pi / 2 * np.clip(edge, 0, 1))


def dsss(rng, modulation, num_samples, sampling_rate_hz, chip_rate_hz):
    """Direct-sequence spread spectrum of mean power one at any ratio of sampling and chip rate.

    Chips are shaped in the frequency domain, where a chip may last any fraction of samples: the chips' spectrum repeats
    at multiples of the chip rate, times that of the pulse. The window then holds a whole number of chips, so the chip
    rate is rounded to one chip per window.

    Args:
        modulation: of the data, "bpsk" or "qpsk"; one symbol lasts one period of the code of +-1.
        chip_rate_hz: at most the sampling rate over 1 + `CHIP_ROLLOFF`.

    Returns:
        (samples, chip_rate_hz): (num_samples,) complex64, and the chip rate as it is.
    """
    size = num_samples + 2 * GUARD_SAMPLES  # the window is circular: code and pulses are broken where its ends meet
    num_chips = round(size * chip_rate_hz / sampling_rate_hz)
    code = rng.choice(np.array([-1, 1], np.float32), CHIPS_PER_SYMBOL)
    symbols = random_symbols(rng, modulation, num_chips // CHIPS_PER_SYMBOL + 2)
    first = rng.integers(CHIPS_PER_SYMBOL)
    chips = (symbols[:, None] * code).ravel()[first : first + num_chips]
    edge = int(num_chips * (1 + CHIP_ROLLOFF) / 2)
    bins = np.arange(-edge, edge + 1)
    pulse = root_raised_cosine_spectrum(bins / num_chips, CHIP_ROLLOFF) * (size / num_chips)
    delay = np.exp(-2j * np.pi * rng.random() / num_chips * bins)  # the first chip begins between two samples
    spectrum = np.zeros(size, np.complex64)
    spectrum[bins] = fft.fft(chips)[bins % num_chips] * pulse * delay
    return fft.ifft(spectrum)[GUARD_SAMPLES:-GUARD_SAMPLES], num_chips / size * sampling_rate_hz


def features():
    return schema.iq_features(1, WINDOW_SAMPLES, label_names=LABEL_NAMES)


def plan(split_samples):
    return {split: range(count) for split, count in split_samples.items()}


def rows(seed, split, index):
    """One window: the classes in turn, each with 5 and 10 MHz in turn."""
    rng = random_generator(seed, TASK, split, index)
    label, num_resource_blocks = index % 3, (25, 50)[index // 3 % 2]
    sampling_rate_hz = 15e3 * ofdm.LTE_FFT_SIZES[num_resource_blocks]
    drawn = {
        "load": rng.uniform(0.7, 1),
        "carrier_offset_hz": rng.uniform(-500, 500),
        "snr_db": rng.uniform(15, 35),
        "lo_leakage_dbc": rng.uniform(-26, -14),
        "level_dbfs": rng.normal(LTE_LEVEL_DBFS, GAIN_JITTER_DB),
    }
    cell = ofdm.lte_downlink(rng, 1, num_resource_blocks, drawn["load"], rng.integers(504))
    samples = random_cut(rng, cell, WINDOW_SAMPLES)
    samples = samples / np.sqrt(impairments.mean_power(samples))
    samples *= impairments.carrier_offset(WINDOW_SAMPLES, drawn["carrier_offset_hz"], sampling_rate_hz)
    # noise and the receiver's leakage are relative to the cell, so that they do not tell whether there is interference
    samples = impairments.awgn(rng, samples, drawn["snr_db"])
    samples = impairments.lo_leakage(samples, drawn["lo_leakage_dbc"], rng.uniform(0, 2 * np.pi))
    if label:
        chip_rate_hz, offset_hz = rng.uniform(1e6, 4e6), rng.uniform(-500e3, 500e3)
        interference_to_signal_db = rng.uniform(-6, 0)
        interferer, chip_rate_hz = dsss(
            rng, ("bpsk", "qpsk")[label - 1], WINDOW_SAMPLES, sampling_rate_hz, chip_rate_hz
        )
        interferer *= impairments.carrier_offset(WINDOW_SAMPLES, offset_hz, sampling_rate_hz)
        gain = 10 ** (interference_to_signal_db / 20) * np.exp(2j * np.pi * rng.random())
        samples += np.complex64(gain / np.sqrt(impairments.mean_power(interferer))) * interferer
        drawn |= {
            "interference_to_signal_db": interference_to_signal_db,
            "chip_rate_hz": chip_rate_hz,
            "interferer_offset_hz": offset_hz,
        }
    samples *= np.float32(10 ** (drawn["level_dbfs"] / 20))

    name = f"{TASK}-{seed}-{split}-{index}"
    parameters = {"bandwidth_hz": 2e5 * num_resource_blocks, "gain_jitter_db": GAIN_JITTER_DB, **drawn}
    yield {
        "iq": samples.astype(np.complex64).view(np.float32).reshape(1, WINDOW_SAMPLES, 2),
        "label": label,
        "recording": name,
        "group": name,
        "sampling_rate_hz": sampling_rate_hz,
        "center_frequency_hz": CENTER_FREQUENCY_HZ,
        "start": 0,
        "parameters": json.dumps(parameters),
        "source": f"processing.simulation.{TASK}",
    }
