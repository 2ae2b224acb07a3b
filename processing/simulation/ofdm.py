"""OFDM waveforms in complex baseband: plain, LTE and NR downlink, Wi-Fi.

Every function draws from the `rng` it is given and returns complex64 with mean power one when every subcarrier is in
use. Its sampling rate is stated in the first lines of its docstring.
"""

from functools import lru_cache

import numpy as np
from scipy import fft

from processing.simulation.waveforms import random_symbols

LTE_FFT_SIZES = {6: 128, 15: 256, 25: 512, 50: 1024, 75: 1536, 100: 2048}  # resource blocks: 1.4 ... 20 MHz
WIFI_SAMPLING_RATE_HZ = 20e6

# IEEE 802.11-2020, 17.3.3: short training on every fourth subcarrier from -24, long training on -26 ... 26.
WIFI_SHORT_TRAINING = np.array([1, -1, 1, -1, -1, 1, 0, -1, -1, 1, 1, 1, 1]) * (1 + 1j) * np.sqrt(13 / 6)
WIFI_LONG_TRAINING = np.array(
    [1, 1, -1, -1, 1, 1, -1, 1, -1, 1, 1, 1, 1, 1, 1, -1, -1, 1, 1, -1, 1, -1, 1, 1, 1, 1]
    + [0, 1, -1, -1, 1, 1, -1, 1, -1, 1, -1, -1, -1, -1, -1, 1, 1, -1, -1, 1, -1, 1, -1, 1, 1, 1, 1]
)


@lru_cache
def _cyclic_prefix_index(num_symbols, fft_size, prefix_lengths):
    lengths = (prefix_lengths * (num_symbols // len(prefix_lengths) + 1))[:num_symbols]
    return np.concatenate([n * fft_size + np.arange(-cp, fft_size) % fft_size for n, cp in enumerate(lengths)])


def ofdm_symbols(subcarriers, fft_size, prefix_lengths, null_dc=True):
    """OFDM with cyclic prefixes; mean power one when every subcarrier has power one.

    Args:
        subcarriers: (num_symbols, num_subcarriers), lowest frequency first.
        prefix_lengths: tuple of samples, repeated over the symbols.
        null_dc: leave the centre frequency out between the two halves, as LTE's downlink does and NR does not.
    """
    half = subcarriers.shape[1] // 2
    spectrum = np.zeros((len(subcarriers), fft_size), np.complex64)
    spectrum[:, int(null_dc) : int(null_dc) + half] = subcarriers[:, half:]
    spectrum[:, -half:] = subcarriers[:, :half]
    symbols = fft.ifft(spectrum, axis=1) * np.float32(fft_size / np.sqrt(2 * half))
    return symbols.ravel()[_cyclic_prefix_index(len(subcarriers), fft_size, prefix_lengths)]


def ofdm(rng, modulation, num_samples, fft_size=64, prefix_length=16, num_subcarriers=52):
    """Plain OFDM without pilots. Sampling rate: `fft_size` times the subcarrier spacing."""
    num_symbols = num_samples // (fft_size + prefix_length) + 1
    data = random_symbols(rng, modulation, (num_symbols, num_subcarriers))
    return ofdm_symbols(data, fft_size, (prefix_length,))[:num_samples]


@lru_cache(maxsize=504)
def _lte_synchronisation(cell_id):
    """(2, 62): SSS and PSS. The SSS is a fixed binary sequence per cell here, not the standard's two m-sequences."""
    n = np.arange(63)
    zadoff_chu = np.exp(-1j * np.pi * (25, 29, 34)[cell_id % 3] * n * (n + 1) / 63)
    return np.stack([np.random.default_rng(cell_id).choice([-1, 1], 62), np.delete(zadoff_chu, 31)])


def lte_downlink(rng, num_subframes, num_resource_blocks=25, load=1.0, cell_id=0):
    """LTE FDD downlink, one port, normal prefix. Rate: 15 kHz * `LTE_FFT_SIZES[num_resource_blocks]`; 1 ms each.

    Grid of 3GPP TS 36.211: cell-specific reference signals (6.10.1), PSS and SSS every 5 ms (6.11), a control region
    of two symbols and PDSCH on a fraction `load` of the resource blocks, drawn anew for every subframe.
    """
    num_subcarriers, fft_size = 12 * num_resource_blocks, LTE_FFT_SIZES[num_resource_blocks]
    grid = np.zeros((num_subframes, 14, num_subcarriers), np.complex64)
    for subframe in grid:
        used = np.repeat(rng.random(num_resource_blocks) < load, 12)
        modulation = ("qpsk", "16qam", "64qam")[rng.integers(3)]
        subframe[2:, used] = random_symbols(rng, modulation, (12, used.sum()))
        occupied = np.repeat(rng.random((2, num_subcarriers // 4)) < 0.3 + 0.7 * load, 4, axis=1)
        subframe[:2] = random_symbols(rng, "qpsk", (2, num_subcarriers)) * occupied
    for symbol, shift in ((0, 0), (4, 3), (7, 0), (11, 3)):
        pilots = grid[:, symbol, (shift + cell_id) % 6 :: 6]
        pilots[:] = random_symbols(rng, "qpsk", pilots.shape)
    centre = num_subcarriers // 2
    grid[::5, 5:7, centre - 36 : centre + 36] = 0
    grid[::5, 5:7, centre - 31 : centre + 31] = _lte_synchronisation(int(cell_id))
    prefixes = tuple(fft_size * length // 2048 for length in (160,) + 6 * (144,))
    return ofdm_symbols(grid.reshape(-1, num_subcarriers), fft_size, prefixes)


def nr_fft_size(num_resource_blocks):
    """Smallest power of two that keeps at least 15 % of the band free."""
    return 1 << int(np.ceil(np.log2(12 * num_resource_blocks / 0.85)))


def nr_downlink(rng, num_slots, num_resource_blocks=51, numerology=1, load=1.0, activity=1.0):
    """NR downlink in slots of 1 ms / 2^`numerology`. Rate: 15 kHz * 2^numerology * `nr_fft_size(num_resource_blocks)`.

    3GPP TS 38.211: prefixes (5.3.1), PDSCH on `load` of the band in each slot that is used (probability `activity`)
    with comb DM-RS in its third symbol (7.4.1.1), a synchronisation block of 240 subcarriers every 20 ms (7.4.3). No
    reference signal is always on.
    """
    num_subcarriers, fft_size = 12 * num_resource_blocks, nr_fft_size(num_resource_blocks)
    grid = np.zeros((num_slots, 14, num_subcarriers), np.complex64)
    width = max(1, round(load * num_resource_blocks))
    for slot in np.flatnonzero(rng.random(num_slots) < activity):
        first = 12 * rng.integers(0, num_resource_blocks - width + 1)
        modulation = ("qpsk", "16qam", "64qam", "256qam")[rng.integers(4)]
        data = random_symbols(rng, modulation, (14, 12 * width))
        data[2] = random_symbols(rng, "qpsk", 12 * width) * np.sqrt(2)
        data[2, 1::2] = 0
        grid[slot, :, first : first + 12 * width] = data
    if num_resource_blocks >= 20:
        block = grid[:: 20 * 2**numerology, 2:6, num_subcarriers // 2 - 120 : num_subcarriers // 2 + 120]
        block[:] = random_symbols(rng, "qpsk", block.shape)
    short = 144 * fft_size // 2048
    prefixes = (short + 16 * 2**numerology * fft_size // 2048,) + (short,) * (7 * 2**numerology - 1)
    return ofdm_symbols(grid.reshape(-1, num_subcarriers), fft_size, prefixes, null_dc=False)


@lru_cache
def _wifi_training():
    short = np.zeros((1, 52), np.complex64)
    short[0, [2, 6, 10, 14, 18, 22, 29, 33, 37, 41, 45, 49]] = WIFI_SHORT_TRAINING[WIFI_SHORT_TRAINING != 0]
    long = np.delete(WIFI_LONG_TRAINING, 26)[None]
    parts = [
        np.resize(np.roll(ofdm_symbols(symbol, 64, (0,)), roll), 160) for symbol, roll in ((short, 0), (long, 32))
    ]
    return np.concatenate(parts)


def wifi_frame(rng, num_data_symbols, modulation="16qam"):
    """One IEEE 802.11a/g frame at 20 MS/s: two training fields of 8 us, then symbols of 4 us (17.3, OFDM PHY).

    The first symbol is the SIGNAL field (BPSK); the others carry `modulation`. Pilots are on +-7 and +-21.
    """
    data = random_symbols(rng, modulation, (num_data_symbols + 1, 52))
    data[0] = random_symbols(rng, "bpsk", 52)
    polarity = 1 - 2 * rng.integers(0, 2, (len(data), 1))
    data[:, [5, 19, 32, 46]] = polarity * np.array([1, 1, 1, -1])
    return np.concatenate([_wifi_training(), ofdm_symbols(data, 64, (16,))])


def digital_audio_broadcasting(rng, num_frames):
    """DAB in transmission mode I at 2.048 MS/s: frames of 96 ms (ETSI EN 300 401, clause 14).

    A null symbol of 1.297 ms, the phase reference symbol, 75 symbols of pi/4-DQPSK on 1536 carriers of 1 kHz.
    """
    phases = np.pi / 4 * (1 + 2 * rng.integers(0, 4, (num_frames, 76, 1536)))
    # the phase reference is a fixed sequence here, not the standard's table
    phases[:, 0] = np.pi / 2 * np.random.default_rng(0).integers(0, 4, 1536)
    symbols = ofdm_symbols(np.exp(1j * np.cumsum(phases, axis=1)).astype(np.complex64).reshape(-1, 1536), 2048, (504,))
    null = np.zeros((num_frames, 2656), np.complex64)
    return np.concatenate([null, symbols.reshape(num_frames, -1)], axis=1).ravel()
