"""IQ windows of slow, narrow-band transmitters at a cheap receiver, for masked pretraining, without labels.

Remote controls, sensors, telemetry, pagers and voice between 300 and 930 MHz as an 8-bit receiver of 200 kS/s to 1 MS/s
hears them for 4 to 20 ms: some tens of symbols, off the centre, keyed on and off within the window or before it.

Oscillators are pulled when the carrier is keyed on and settle exponentially. The receiver has a DC offset, an image from
its IQ imbalance, a filter that rolls off, spurious tones and a floor of noise of its own; some windows are clipped.
"""

import json
from functools import lru_cache

import numpy as np
from scipy.signal import firwin, lfilter

from processing import schema
from processing.simulation import impairments, random_generator, services, waveforms
from processing.simulation.waveforms import frequency_modulation, phasor

TASK = "pretrain-narrowband"
DEFAULT_SAMPLES = 3200
SPLITS = {"train": 0.9, "validation": 0.1}
OPTIONS = {}

NUM_SAMPLES = 4096
NUM_TAPS = 33
LENGTH = NUM_SAMPLES + NUM_TAPS - 1  # the receiver's filter takes its run-in
SAMPLING_RATE_HZ = (200e3, 1e6)
CENTER_FREQUENCY_HZ = (300e6, 930e6)
LARGEST_OFFSET = 0.45  # of a carrier from the centre, over the sampling rate
FULL_SCALE = 128  # 8 bits


def _log_uniform(rng, low, high):
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _place(rng, burst):
    """A burst somewhere in the window, a third of the shorter of both at least."""
    overlap = min(len(burst), LENGTH) // 3
    start = int(rng.integers(overlap - len(burst), LENGTH - overlap + 1))
    placed = np.zeros(LENGTH, np.complex64)
    part = burst[max(0, -start) : LENGTH - start]
    placed[max(0, start) : max(0, start) + len(part)] = part
    return placed


def _random_bits(rng, num_bits):
    """A preamble of alternating bits, a random word of synchronisation and a random payload."""
    preamble = np.arange(int(rng.integers(0, 33))) % 2
    return np.concatenate([preamble, rng.integers(0, 2, num_bits)])


def keyed_pulses(bits, coding, unit_s, short=1.0, long=2.0):
    """Durations in seconds of the marks and spaces, a mark first, of a telegram by one of `CODINGS`.

    pwm: the mark is long for a one, mark and space last the same together; ppm: the space is long for a one, the mark
    is one unit; manchester: 10 or 01; fixed: 1 or 0.
    """
    bits = np.asarray(bits)
    if coding == "pwm":
        durations = np.where(bits[:, None] == 1, [long, short], [short, long])
    elif coding == "ppm":
        durations = np.where(bits[:, None] == 1, [1, long], [1, short])
    else:
        chips = np.stack([bits, 1 - bits], axis=1).ravel() if coding == "manchester" else bits
        chips = np.concatenate([[1], chips, [0]])  # a mark first and a space last
        edges = np.flatnonzero(np.diff(chips)) + 1
        durations = np.diff(np.concatenate([[0], edges, [len(chips)]]))
        durations = durations[: len(durations) // 2 * 2]
    return durations.ravel() * unit_s


CODINGS = ("pwm", "ppm", "manchester", "fixed")


def _on_off_keying(coding):
    def build(rng, rate_hz):
        unit_s = _log_uniform(rng, 80e-6, 600e-6)
        short, long = rng.uniform(1.0, 4.0), rng.uniform(1.8, 4.0)
        long = short * long if coding == "ppm" else long
        pulses = keyed_pulses(
            _random_bits(rng, rng.integers(16, 97)), coding, unit_s, 1 if coding == "pwm" else short, long
        )
        if rng.random() < 0.5:  # a long mark or space before the data, to synchronise
            pulses = np.concatenate([[unit_s * rng.uniform(1, 10), unit_s * rng.uniform(2, 12)], pulses])
        # repeats after a gap of half a window at most, so that every window holds something
        pulses[-1] += rng.uniform(0.05, 0.5) * NUM_SAMPLES / rate_hz
        repeats = int(LENGTH / rate_hz / pulses.sum()) + 2
        edges = np.cumsum(np.tile(pulses, repeats)) - rng.uniform(0, pulses.sum())
        edges = np.clip(np.rint(edges * rate_hz), 0, LENGTH).astype(int)
        # the mark begins at an even pulse: levels alternate from edge to edge
        levels = np.repeat(np.arange(len(edges)) % 2 == 0, np.diff(edges, prepend=0))
        return np.where(levels, 1, rng.choice([0, 10 ** (rng.uniform(-45, -25) / 20)])).astype(np.complex64)

    return build


def _frequency_shift_keying(levels, rounding, deviation_hz, symbol_rate_hz):
    """Bursts of FSK with square (`rounding` 0) or rounded steps between `levels` frequencies."""

    def build(rng, rate_hz):
        baud = _log_uniform(rng, symbol_rate_hz[0], min(symbol_rate_hz[1], rate_hz / 8))
        peak_hz = _log_uniform(rng, deviation_hz[0], min(deviation_hz[1], 0.2 * rate_hz))
        alphabet = np.linspace(-1, 1, levels)
        most = int(3 * LENGTH / rate_hz * baud) + 12  # three windows: what is beyond is not heard
        num_symbols = min(int(_log_uniform(rng, 12, 400)), most)
        symbols = alphabet[rng.integers(0, levels, num_symbols)]
        preamble = int(rng.integers(0, 1 + num_symbols // 2))
        symbols[:preamble] = 1 - 2 * (np.arange(preamble) % 2)
        if levels == 2 and rng.random() < 0.3:  # Manchester
            symbols = np.stack([symbols, -symbols], axis=1).ravel()[: len(symbols)]
        message = services.hold(symbols, baud, rate_hz)
        edge = rng.uniform(*rounding) * rate_hz / baud
        if edge >= 1:
            message = services.rounded(message, edge)
        burst = frequency_modulation(message, peak_hz, rate_hz)
        if rng.random() < 0.3:  # with a pause, again
            pause = np.zeros(int(rng.uniform(0.02, 0.4) * NUM_SAMPLES), np.complex64)
            burst = np.concatenate([burst, pause] * 3)[: 4 * LENGTH]
        return _place(rng, burst)

    return build


def _lora(rng, rate_hz):
    """Bandwidth: the sampling rate over 2, 4 or 8, so 25 to 500 kHz."""
    oversampling, spreading_factor = 2 ** int(rng.integers(1, 4)), int(rng.integers(6, 10))
    num_symbols = int(rng.integers(4, 20))
    num_samples = int((num_symbols + waveforms.LORA_PREAMBLE_SYMBOLS) * 2**spreading_factor * oversampling)
    cut_length = LENGTH if num_samples > 3 * LENGTH else None
    return _place(rng, waveforms.lora(rng, num_symbols, spreading_factor, oversampling, cut_length))


def _am(rng, rate_hz):
    return services.amplitude_modulation(services.voice(rng, LENGTH, rate_hz), rng.uniform(0.4, 0.85))


def _fm(rng, rate_hz):
    return frequency_modulation(services.voice(rng, LENGTH, rate_hz), rng.uniform(1.5e3, 5e3), rate_hz)


def _packet(rng, rate_hz):
    return _place(rng, services.packet(rng, rate_hz, int(rng.integers(1, 4)), int(rng.integers(1, 3))))


def _carrier(rng, rate_hz):
    burst = np.ones(LENGTH if rng.random() < 0.6 else int(rng.uniform(0.1, 1) * LENGTH), np.complex64)
    return _place(rng, burst) if len(burst) < LENGTH else burst


def _nothing(rng, rate_hz):
    return np.zeros(LENGTH, np.complex64)


# modulation -> its waveform of `LENGTH` samples at a given rate, zero where nothing is sent; how often it is drawn
MODULATIONS = {
    **{f"on-off-keying {coding}": (_on_off_keying(coding), 4) for coding in CODINGS},
    "2fsk": (_frequency_shift_keying(2, (0, 0.1), (5e3, 60e3), (1e3, 40e3)), 6),
    "gfsk": (_frequency_shift_keying(2, (0.4, 1.0), (5e3, 60e3), (1e3, 40e3)), 6),
    "4fsk": (_frequency_shift_keying(4, (0.3, 0.8), (1e3, 20e3), (2e3, 20e3)), 2),
    "lora": (_lora, 3),
    "am": (_am, 1),
    "fm": (_fm, 1),
    "packet": (_packet, 1),
    "carrier": (_carrier, 1),
    "noise": (_nothing, 1),
}
_NAMES = list(MODULATIONS)
_SHARES = np.cumsum([often for _, often in MODULATIONS.values()])


def _draw(rng):
    return _NAMES[np.searchsorted(_SHARES, rng.integers(_SHARES[-1]), side="right")]


def seconds_on(samples, rate_hz):
    """Time since the carrier was keyed on, in seconds; before the first sample it was on for a second."""
    on = samples.real**2 + samples.imag**2 > 0.01
    number = np.arange(len(samples))
    keyed = np.where(np.diff(on, prepend=True) & on, number, -int(rate_hz))
    return (number - np.maximum.accumulate(keyed)) / rate_hz


def transmit(rng, samples, rate_hz):
    """What a simple transmitter makes of its waveform: edges of a few samples, a pulled oscillator, drooping power.

    Returns:
        (LENGTH,) complex64 around its carrier, and the pull in Hz.
    """
    since_s = seconds_on(samples, rate_hz)
    pull_hz = rng.choice([0, rng.uniform(-5e3, 5e3)], p=[0.3, 0.7])
    settling_s = _log_uniform(rng, 50e-6, 3e-3)
    drift_hz_s = rng.normal(0, 1e4)
    frequency_hz = pull_hz * np.exp(-since_s / settling_s) + drift_hz_s * np.arange(LENGTH) / rate_hz
    if rng.random() < 0.5:  # a resonator's exponential rise and fall
        pole = np.exp(-1 / rng.uniform(0.3, 5))
        samples = lfilter([1 - pole], [1, -pole], samples)
    else:
        edge = np.hanning(int(rng.integers(1, 8)) + 2)[1:-1]
        samples = np.convolve(samples, edge / edge.sum(), "same")
    if rng.random() < 0.3:
        droop_db = rng.uniform(0, 4) * (1 - np.exp(-since_s / _log_uniform(rng, 1e-3, 20e-3)))
        samples = samples * 10 ** (-droop_db / 20)
    return (samples * phasor(np.cumsum(frequency_hz) / rate_hz)).astype(np.complex64), float(pull_hz)


@lru_cache
def _low_pass(cutoff, window):
    return firwin(NUM_TAPS, cutoff, window=window).astype(np.float32)


def quantise(samples):
    """8-bit I and Q in -1 ... 1: the middles of 256 steps, without a zero; larger values are clipped."""
    steps = np.floor(samples.view(np.float32) * FULL_SCALE)
    return (np.clip(steps, -FULL_SCALE, FULL_SCALE - 1) + np.float32(0.5)) / np.float32(FULL_SCALE)


def features():
    return schema.iq_features(1, NUM_SAMPLES)


def plan(split_samples):
    return {split: range(count) for split, count in split_samples.items()}


def rows(seed, split, index):
    """One window: transmitter and receiver drawn anew."""
    rng = random_generator(seed, TASK, split, index)
    rate_hz = _log_uniform(rng, *SAMPLING_RATE_HZ)
    modulation = _draw(rng)
    sent, pull_hz = transmit(rng, MODULATIONS[modulation][0](rng, rate_hz), rate_hz)
    cutoff = round(rng.uniform(0.7, 0.98), 2)  # of the filter, over half the sampling rate
    # what is sent beyond the cutoff, where the filter takes 6 dB, would hardly be heard
    largest_offset = min(LARGEST_OFFSET, cutoff / 2)
    offset_hz = rng.uniform(-1, 1) * largest_offset * rate_hz
    received = sent * impairments.phase_noise(rng, LENGTH, _log_uniform(rng, 1, 100), rate_hz, offset_hz)
    second = None
    if rng.random() < 0.2:
        second = _draw(rng)
        weaker, _ = transmit(rng, MODULATIONS[second][0](rng, rate_hz), rate_hz)
        weaker *= np.float32(10 ** (rng.uniform(-20, -3) / 20))
        received += weaker * phasor(rng.uniform(-1, 1) * largest_offset * np.arange(LENGTH) + rng.random())
    drawn = {
        "snr_db": rng.uniform(3, 40),
        "iq_gain_db": rng.uniform(-1, 1),
        "iq_phase_deg": rng.uniform(-5, 5),
        # the signal's amplitude at the converter
        "level_dbfs": rng.uniform(1, 10) if rng.random() < 0.08 else rng.uniform(-30, -2),
        "dc_dbfs": rng.uniform(-50, -25),
        "cutoff": cutoff,
    }
    noise = waveforms.complex_normal(rng, LENGTH + 1)
    tilt = np.complex64(rng.uniform(0, 0.3) * np.exp(2j * np.pi * rng.random()))  # its colour: a few dB over the band
    noise = (noise[1:] + tilt * noise[:-1]) / np.float32(np.sqrt(1 + abs(tilt) ** 2))
    received += np.float32(10 ** (-drawn["snr_db"] / 20)) * noise
    num_spurs = int(rng.integers(0, 4))
    for _ in range(num_spurs):  # of at most the noise's power, but narrow
        level = np.float32(10 ** ((rng.uniform(-25, 0) - drawn["snr_db"]) / 20))
        received += level * phasor(rng.uniform(-0.5, 0.5) * np.arange(LENGTH) + rng.random())
    taps = _low_pass(drawn["cutoff"], "boxcar" if rng.random() < 0.3 else "hamming")  # with ripple or without
    received = np.convolve(received, taps, "valid").astype(np.complex64)
    received = impairments.iq_imbalance(received, drawn["iq_gain_db"], drawn["iq_phase_deg"])
    received *= np.float32(10 ** (drawn["level_dbfs"] / 20))
    received += np.complex64(10 ** (drawn["dc_dbfs"] / 20) * np.exp(2j * np.pi * rng.random()))
    # the converter's own noise, a step or less
    received += np.float32(rng.uniform(0.3, 1) / FULL_SCALE) * waveforms.complex_normal(rng, NUM_SAMPLES)
    recording = f"{TASK}-{seed}-{split}-{index}"
    parameters = {"modulation": modulation, "second": second, "offset_hz": offset_hz, "pull_hz": pull_hz}
    yield {
        "iq": quantise(received).reshape(1, NUM_SAMPLES, 2),
        "recording": recording,
        "group": recording,
        "sampling_rate_hz": rate_hz,
        "center_frequency_hz": float(rng.uniform(*CENTER_FREQUENCY_HZ)),
        "start": 0,
        "parameters": json.dumps({**parameters, **drawn, "num_spurs": num_spurs}),
        "source": f"processing.simulation.{TASK}",
    }
