"""IQ windows for masked pretraining: many modulations at a four-antenna receiver indoors, without labels."""

import json

import numpy as np

from processing import schema
from processing.simulation import impairments, ofdm, random_generator, waveforms
from processing.simulation.waveforms import random_cut

TASK = "pretrain-iq"
DEFAULT_SAMPLES = 3200
SPLITS = {"train": 0.9, "validation": 0.1}
OPTIONS = {}

NUM_ANTENNAS = 4
NUM_SAMPLES = 1024
ANTENNA_MISMATCH = np.array([0.5, np.deg2rad(5)])[:, None, None]  # standard deviations in dB and rad
GUARD_SAMPLES = 128  # on both sides, longer than any path delay at the highest sampling rate


def _rate_hz(rng, low_hz, high_hz):
    return float(np.exp(rng.uniform(np.log(low_hz), np.log(high_hz))))


def _choice(rng, values):
    """One of a few values: `rng.choice` makes an array of them first."""
    return values[rng.integers(len(values))]


def _linear(modulation):
    def build(rng, length):
        samples_per_symbol, rolloff = int(rng.integers(4, 17)), round(rng.uniform(0.2, 0.5), 2)
        samples = waveforms.linear_modulation(rng, modulation, length, samples_per_symbol, rolloff)
        return samples, _rate_hz(rng, 1e6, 10e6)

    return build


def _dsss(modulation):
    def build(rng, length):
        chips = _choice(rng, [11, 31, 63, 127])
        return waveforms.dsss(rng, modulation, length, int(rng.integers(2, 7)), chips), _rate_hz(rng, 4e6, 10e6)

    return build


def _gfsk(symbol_rate_hz, modulation_index, bandwidth_time, levels=2):
    def build(rng, length):
        oversampling = int(rng.integers(4, 9))
        samples = waveforms.gfsk(rng, length, oversampling, modulation_index, bandwidth_time, levels)
        return samples, oversampling * symbol_rate_hz

    return build


def _ofdm(rng, length):
    size = _choice(rng, [64, 128, 256, 512])
    modulation = _choice(rng, ["bpsk", "qpsk", "16qam", "64qam"])
    prefix_length = size // _choice(rng, [4, 8, 16])
    samples = ofdm.ofdm(rng, modulation, length + size + prefix_length, size, prefix_length, 2 * (2 * size // 5))
    return random_cut(rng, samples, length), _rate_hz(rng, 2e6, 20e6)


def _lte(rng, length):
    return random_cut(rng, ofdm.lte_downlink(rng, 1, 25, rng.uniform(0.3, 1), rng.integers(504)), length), 7.68e6


def _nr(rng, length):
    return random_cut(rng, ofdm.nr_downlink(rng, 1, 24, 1, rng.uniform(0.3, 1)), length), 15.36e6


def _wifi(rng, length):
    frame = ofdm.wifi_frame(rng, length // 80 + 10, _choice(rng, ["bpsk", "qpsk", "16qam", "64qam"]))
    return random_cut(rng, frame, length), ofdm.WIFI_SAMPLING_RATE_HZ


def _lora(rng, length):
    bandwidth_hz, oversampling = _choice(rng, [125e3, 250e3, 500e3]), _choice(rng, [2, 4])
    frame = waveforms.lora(rng, 12, _choice(rng, [7, 8]), oversampling, length)
    return frame, oversampling * bandwidth_hz


def _fm(rng, length):
    rate_hz = _rate_hz(rng, 240e3, 1e6)
    return waveforms.fm_broadcast(rng, length, rate_hz), rate_hz


def _am(rng, length):
    rate_hz = _rate_hz(rng, 24e3, 100e3)
    return waveforms.am_voice(rng, length, rate_hz, rng.uniform(0.7, 0.95)), rate_hz


def _on_off_keying(rng, length):
    rate_hz = _rate_hz(rng, 50e3, 200e3)
    # a word of 64 bits outlasts the window, which therefore never falls into the pause after it
    num_samples = length + length // 4
    code = waveforms.remote_control(
        rng, num_samples, rate_hz, 10 ** rng.uniform(-3.6, -3.2), 64, bool(rng.integers(2))
    )
    return random_cut(rng, code, length), rate_hz


# modulation -> its waveform with the sampling rate, and the carrier frequencies it is found at
MODULATIONS = {
    **{name: (_linear(name), (0.4e9, 6e9)) for name in ("bpsk", "qpsk", "8psk", "4ask", "16qam", "64qam", "256qam")},
    "dsss-bpsk": (_dsss("bpsk"), (0.9e9, 2.5e9)),
    "dsss-qpsk": (_dsss("qpsk"), (0.9e9, 2.5e9)),
    "bluetooth": (_gfsk(1e6, 0.32, 0.5), (2.402e9, 2.48e9)),
    "bluetooth-le": (_gfsk(1e6, 0.5, 0.5), (2.402e9, 2.48e9)),
    "gsm": (_gfsk(waveforms.GSM_SYMBOL_RATE_HZ, 0.5, 0.3), (0.925e9, 0.96e9)),
    "4fsk": (_gfsk(4.8e3, 0.81, 0.5, levels=4), (0.4e9, 0.47e9)),
    "ofdm": (_ofdm, (0.4e9, 6e9)),
    "lte": (_lte, (0.7e9, 2.7e9)),
    "nr": (_nr, (2.4e9, 3.6e9)),
    "wifi": (_wifi, (2.412e9, 2.472e9)),
    "lora": (_lora, (0.863e9, 0.928e9)),
    "fm": (_fm, (88e6, 108e6)),
    "am": (_am, (118e6, 137e6)),
    "on-off-keying": (_on_off_keying, (433e6, 435e6)),
}


NAMES = list(MODULATIONS)
# uniform draws of one window's front ends, channel and level
RANGES = {
    "iq_gain_db": (-0.5, 0.5),
    "iq_phase_deg": (-3, 3),
    "lo_leakage_dbc": (-45, -25),
    "input_backoff_db": (6, 12),
    "am_pm_rad": (-0.3, 0.3),
    "linewidth_hz": (5, 60),
    "delay_spread_s": (20e-9, 60e-9),
    "k_factor_db": (-3, 12),
    "snr_db": (0, 30),
    "level_dbfs": (-15, -9),
}


def features():
    return schema.iq_features(NUM_ANTENNAS, NUM_SAMPLES)


def plan(split_samples):
    return {split: range(count) for split, count in split_samples.items()}


def rows(seed, split, index):
    """One window: transmitter, indoor channel and receiver drawn anew. The channel is static within it."""
    rng = random_generator(seed, TASK, split, index)
    modulation = _choice(rng, NAMES)
    build, carrier_range_hz = MODULATIONS[modulation]
    carrier_hz = float(rng.uniform(*carrier_range_hz))
    length = NUM_SAMPLES + 2 * GUARD_SAMPLES
    samples, rate_hz = build(rng, length)
    uniform = rng.random(len(RANGES)).tolist()
    drawn = {name: low + (high - low) * u for (name, (low, high)), u in zip(RANGES.items(), uniform, strict=True)}
    # oscillators of transmitter and receiver together; narrow signals are tuned in within a fiftieth of the band
    drawn["carrier_offset_hz"] = rng.uniform(-1, 1) * min(2e-6 * carrier_hz, 0.02 * rate_hz)
    samples = impairments.iq_imbalance(samples, drawn["iq_gain_db"], drawn["iq_phase_deg"])
    samples = impairments.lo_leakage(samples, drawn["lo_leakage_dbc"], rng.uniform(0, 2 * np.pi))
    samples = impairments.rapp_amplifier(samples, drawn["input_backoff_db"], 2.0, drawn["am_pm_rad"])
    delays_s, gains = impairments.simo_channel(rng, NUM_ANTENNAS, drawn["delay_spread_s"], drawn["k_factor_db"])
    # the antennas' gains and phases are calibrated only roughly
    level_db, phase_rad = rng.standard_normal((2, NUM_ANTENNAS, 1)) * ANTENNA_MISMATCH
    channel = impairments.Channel(delays_s, gains * 10 ** (level_db / 20) * np.exp(1j * phase_rad))
    received = impairments.apply_channel(samples, channel, rate_hz)[:, GUARD_SAMPLES:-GUARD_SAMPLES]
    # one local oscillator feeds all antennas
    offset_hz, linewidth_hz = drawn["carrier_offset_hz"], drawn["linewidth_hz"]
    oscillator = impairments.phase_noise(rng, NUM_SAMPLES, linewidth_hz, rate_hz, offset_hz)
    received = impairments.awgn(rng, received * oscillator, drawn["snr_db"])
    received *= np.float32(10 ** (drawn["level_dbfs"] / 20) / np.sqrt(impairments.mean_power(received).mean()))
    recording = f"{TASK}-{seed}-{split}-{index}"
    yield {
        "iq": received.view(np.float32).reshape(NUM_ANTENNAS, NUM_SAMPLES, 2),
        "recording": recording,
        "group": recording,
        "sampling_rate_hz": rate_hz,
        "center_frequency_hz": carrier_hz,
        "start": 0,
        "parameters": json.dumps({"modulation": modulation, **drawn}),
        "source": f"processing.simulation.{TASK}",
    }
