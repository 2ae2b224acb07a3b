"""Waveforms of aeronautical, maritime, amateur, telemetry and voice services in complex baseband.

Every function draws from the `rng` it is given and returns complex64 with mean power one while it transmits (AM: the
carrier, pulses: their tops). Functions that take `num_samples` give a continuous transmission, the others one burst.
"""

import numpy as np
from scipy.signal import oaconvolve

from processing.simulation.waveforms import (
    frequency_modulation,
    frequency_shift_keying,
    morse_units,
    shape_pulses,
)

ADS_B_SAMPLING_RATE_HZ = 10e6
AIS_SAMPLING_RATE_HZ = 48e3
AIS_SLOT_S = 256 / 9600
APT_WORD_RATE_HZ = 4160
RS41_SAMPLING_RATE_HZ = 48e3
FLAG = [0, 1, 1, 1, 1, 1, 1, 0]  # HDLC, ISO/IEC 13239

# Digital voice: symbol rate and outer deviation of four-level FSK (ETSI TS 102 361-1 and TS 102 658, TIA-102.BAAA,
# Yaesu's and NXDN's air interfaces).
DIGITAL_VOICE_HZ = {"dmr": (4800, 1944), "p25": (4800, 1800), "ysf": (4800, 2700), "nxdn": (2400, 1050)}

# Slow-scan television: the parts of one line, seconds and Hz; None is a row of the picture, 1500 Hz black to 2300 white.
SSTV_LINES = {
    "martin 1": [(4.862e-3, 1200), (0.572e-3, 1500)] + 3 * [(146.432e-3, None), (0.572e-3, 1500)],
    "scottie 1": 2 * [(1.5e-3, 1500), (138.24e-3, None)] + [(9e-3, 1200), (1.5e-3, 1500), (138.24e-3, None)],
    "pd 120": [(20e-3, 1200), (2.08e-3, 1500)] + 4 * [(121.6e-3, None)],
}
SSTV_CODES = {"martin 1": 44, "scottie 1": 60, "pd 120": 95}  # announced before the picture (VIS)


def hold(values, value_rate_hz, sampling_rate_hz, num_samples=None):
    """Every value held for 1 / `value_rate_hz`, sampled at `sampling_rate_hz`."""
    if num_samples is None:
        num_samples = int(len(values) * sampling_rate_hz / value_rate_hz)
    return np.asarray(values)[(np.arange(num_samples) * (value_rate_hz / sampling_rate_hz)).astype(int)]


def rounded(levels, edge_samples):
    """Steps drawn out over about `edge_samples`."""
    edge = np.hanning(max(3, round(edge_samples) + 2))
    return oaconvolve(levels, edge / edge.sum(), "same")


def bit_stuffed(bits):
    """A zero after every five ones in a row."""
    stuffed, ones = [], 0
    for bit in bits:
        stuffed.append(bit)
        ones = ones + 1 if bit else 0
        if ones == 5:
            stuffed.append(0)
            ones = 0
    return stuffed


def nrzi(bits):
    """Levels +-1 that change at every zero."""
    return np.cumprod(np.where(np.asarray(bits) == 0, -1, 1))


def picture(rng, num_lines, num_columns):
    """A scene in 0 ... 1 of shape (num_lines, num_columns): flat areas, smooth shading and some texture."""
    line, column = np.linspace(0, 1, num_lines)[:, None], np.linspace(0, 1, num_columns)
    scene = rng.uniform(0.2, 0.8) + rng.uniform(-0.3, 0.3) * line + rng.uniform(-0.3, 0.3) * column
    for _ in range(12):
        centre, radius, shade = rng.random(2), rng.uniform(0.04, 0.3, 2), rng.uniform(-0.5, 0.5)
        inside = ((line - centre[0]) / radius[0]) ** 2 + ((column - centre[1]) / radius[1]) ** 2 < 1
        scene = scene + shade * inside
    return np.clip(scene + 0.04 * rng.standard_normal(scene.shape), 0, 1)


def voice(rng, num_samples, sampling_rate_hz):
    """Speech-like sound in -1 ... 1, 300 to 3400 Hz: syllables with a gliding pitch and three formants, and pauses."""
    knots = np.arange(0, num_samples / sampling_rate_hz + 0.5, 0.15)
    pitch_hz = rng.uniform(90, 210) * 2 ** rng.uniform(-0.25, 0.25, len(knots))
    phase = np.cumsum(np.interp(np.arange(num_samples) / sampling_rate_hz, knots, pitch_hz)) / sampling_rate_hz
    buzz, hiss, sound = phase % 1 - 0.5, 0.3 * rng.standard_normal(num_samples), np.zeros(num_samples)
    start = 0
    while start < num_samples:
        stop = start + int(rng.uniform(0.1, 0.3) * sampling_rate_hz)
        source = (hiss if rng.random() < 0.2 else buzz)[start:stop]
        frequency_hz = np.fft.rfftfreq(len(source), 1 / sampling_rate_hz)
        formants_hz = rng.uniform([300, 900, 2300], [800, 2100, 3000])[:, None]
        tract = np.sum(1 / (1 + ((frequency_hz - formants_hz) / 120) ** 2), axis=0)
        tract *= (frequency_hz > 300) & (frequency_hz < 3400)
        syllable = np.fft.irfft(np.fft.rfft(source) * tract, len(source)) * np.hanning(len(source) + 2)[1:-1]
        sound[start:stop] = rng.uniform(0.4, 1) * syllable / max(3 * syllable.std(), 1e-9)
        start = stop + int((rng.random() < 0.15) * rng.uniform(0.1, 0.5) * sampling_rate_hz)
    return np.clip(sound, -1, 1)


def amplitude_modulation(message, depth):
    """Carrier with both sidebands, the power of the carrier alone being one."""
    return (1 + depth * message).astype(np.complex64)


def ads_b(rng, extended=True):
    """Mode S reply at 10 MS/s (ICAO Annex 10, volume IV, 3.1.2.2): pulses of 0.5 us, positions at 1 Mbit/s.

    A preamble of four pulses in 8 us, then 112 bits (DF 17, `extended`: ADS-B) or 56 (DF 11); parity bits are random.
    """
    bits = rng.integers(0, 2, 112 if extended else 56)
    bits[:5] = [1, 0, 0, 0, 1] if extended else [0, 1, 0, 1, 1]
    chips = np.concatenate([[1, 0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0], np.stack([bits, 1 - bits], 1).ravel()])
    return rounded(np.repeat(chips, 5), 1).astype(np.complex64)


def mode_a_c(rng):
    """Reply of a secondary radar transponder at 10 MS/s: pulses of 0.45 us every 1.45 us between two 20.3 us apart."""
    present = np.concatenate([[1], rng.integers(0, 2, 13), [1]])
    present[7] = 0
    time_us = np.arange(208) / 10 % 1.45
    return ((time_us < 0.45) * present[np.minimum((np.arange(208) / 14.5).astype(int), 14)]).astype(np.complex64)


def ais(rng, num_slots=1):
    """AIS message at 48 kS/s: GMSK of BT 0.4, 9600 bit/s, NRZI, HDLC (ITU-R M.1371, annex 2).

    Eight bits of ramp, 24 of training, flag, 168 bits of data (256 more a further slot), check sum, flag.
    """
    data = rng.integers(0, 2, 168 + 256 * (num_slots - 1) + 16)
    bits = np.concatenate([np.arange(32) % 2, FLAG, bit_stuffed(data), FLAG])
    samples = frequency_shift_keying(nrzi(bits).astype(float), 5, 0.5, 0.4)
    envelope = np.interp(np.arange(len(samples)), [0, 40, len(samples) - 15, len(samples)], [0, 1, 1, 0])
    return samples * envelope.astype(np.float32)


def packet(rng, sampling_rate_hz, num_bytes=60, num_flags=40):
    """AX.25 frame: tones of 1200 and 2200 Hz at 1200 bit/s (Bell 202), NRZI, on FM with a peak deviation of 3 kHz."""
    bits = np.concatenate([np.tile(FLAG, num_flags), bit_stuffed(rng.integers(0, 2, 8 * num_bytes)), FLAG, FLAG])
    tone_hz = hold(1700 - 500 * nrzi(bits), 1200, sampling_rate_hz)
    return frequency_modulation(np.sin(2 * np.pi / sampling_rate_hz * np.cumsum(tone_hz)), 3e3, sampling_rate_hz)


def automatic_picture_transmission(rng, num_samples, sampling_rate_hz):
    """Weather satellite: two lines a second of 2080 words on the amplitude of a 2400 Hz subcarrier, FM of +-17 kHz.

    NOAA KLM user's guide, 4.2: for both channels sync (seven pulses at 1040 or 832 a second), space, 909 words of
    picture, telemetry wedges of eight lines.
    """
    num_lines = int(num_samples / sampling_rate_hz * 2) + 3
    sync_a = np.concatenate([np.zeros(4), np.tile([1, 1, 0, 0], 7), np.zeros(7)])
    sync_b = np.concatenate([np.zeros(4), np.tile([1, 1, 1, 0, 0], 7)])
    scene = picture(rng, num_lines, 909)
    wedges = np.repeat(rng.random(num_lines // 8 + 2), 8)[rng.integers(8) :][:num_lines, None] * np.ones(45)
    parts = [np.tile(sync_a, (num_lines, 1)), np.zeros((num_lines, 47)), scene, wedges]
    parts += [np.tile(sync_b, (num_lines, 1)), np.ones((num_lines, 47)), 1 - scene, wedges]
    words = np.concatenate(parts, axis=1).ravel()[rng.integers(0, 2080) :]
    brightness = hold(words, APT_WORD_RATE_HZ, sampling_rate_hz, num_samples)
    subcarrier = np.sin(2 * np.pi * 2400 / sampling_rate_hz * np.arange(num_samples))
    return frequency_modulation((0.08 + 0.92 * brightness) * subcarrier, 17e3, sampling_rate_hz)


def digital_voice(rng, num_symbols, standard, samples_per_symbol):
    """Four-level FSK of `DIGITAL_VOICE_HZ` with root raised cosine pulses (roll-off 0.2), or D-STAR's GMSK (BT 0.5).

    Sampling rate: `samples_per_symbol` times the symbol rate (D-STAR: 4800 Hz). The voice frames are random.
    """
    if standard == "d-star":
        return frequency_shift_keying(rng.choice([-1.0, 1.0], num_symbols), samples_per_symbol, 0.5, 0.5)
    symbol_rate_hz, deviation_hz = DIGITAL_VOICE_HZ[standard]
    symbols = np.linspace(-1, 1, 4)[rng.integers(0, 4, num_symbols + 16)]
    message = shape_pulses(symbols, samples_per_symbol, 0.2).real
    return frequency_modulation(message, deviation_hz, symbol_rate_hz * samples_per_symbol)


def radioteletype(rng, num_samples, sampling_rate_hz, baud=45.45, shift_hz=170):
    """ITA2 characters (ITU-T S.1) by continuous-phase FSK: a start bit of space, five bits, 1.5 stop bits of mark."""
    num_characters = int(num_samples / sampling_rate_hz * baud / 7.5) + 2
    characters = np.ones((num_characters, 7), int)  # where nobody types, the letter shift character is sent
    typed = hold(rng.random(num_characters // 10 + 1) < 0.8, 1, 10)[:num_characters]
    characters[:, 0] = 0
    characters[typed, 1:6] = rng.integers(0, 2, (typed.sum(), 5))
    half_units = np.repeat(characters, [2, 2, 2, 2, 2, 2, 3], axis=1).ravel()[rng.integers(0, 15) :]
    keying = hold(2.0 * half_units - 1, 2 * baud, sampling_rate_hz, num_samples)
    return frequency_modulation(rounded(keying, 0.1 * sampling_rate_hz / baud), shift_hz / 2, sampling_rate_hz)


def keyless_entry(rng, sampling_rate_hz, chip_s, deviation_hz=0.0):
    """One frame of a car key: pulse width modulation or, with a deviation, 2-FSK of Manchester symbols.

    Keyed on and off, as the common rolling-code chips do: 23 chips of preamble, a pause of 10, 66 bits of three chips
    (100 or 110). By FSK: a preamble of 48 symbols that wakes the receiver up, a violation, 80 bits.
    """
    if deviation_hz:
        bits = np.concatenate([np.zeros(48, int), rng.integers(0, 2, 80)])
        chips = np.stack([bits, 1 - bits], axis=1).ravel()
        chips = 2.0 * np.insert(chips, 96, [1, 1, 1, 0, 0, 0]) - 1
        keying = rounded(hold(chips, 1 / chip_s, sampling_rate_hz), 0.1 * chip_s * sampling_rate_hz)
        return frequency_modulation(keying, deviation_hz, sampling_rate_hz)
    bits = np.array([[1, 0, 0], [1, 1, 0]])[rng.integers(0, 2, 66)].ravel()
    chips = np.concatenate([(np.arange(23) + 1) % 2, np.zeros(10), bits])
    return hold(chips, 1 / chip_s, sampling_rate_hz).astype(np.complex64)


def radiosonde(rng):
    """Frame of an RS41 at 48 kS/s: GFSK of +-2.4 kHz at 4800 bit/s; 40 bytes of preamble, 320 bytes in 0.53 s."""
    header = np.unpackbits(np.frombuffer(bytes.fromhex("8635f44093df1a60"), np.uint8), bitorder="little")
    bits = np.concatenate([np.arange(320) % 2, header, rng.integers(0, 2, 8 * 312)])
    return frequency_shift_keying(2.0 * bits - 1, 10, 1.0, 0.5)


def sstv_frequency_hz(rng, num_samples, sampling_rate_hz, mode, start_s=0.0):
    """Tone of a slow-scan picture from `start_s` on: 0.91 s of header (leader and mode code), then lines of `mode`."""
    time_s = start_s + np.arange(num_samples) / sampling_rate_hz
    code = [SSTV_CODES[mode] >> bit & 1 for bit in range(7)]
    vis = [1200, *[1100 if bit else 1300 for bit in (*code, sum(code) % 2)], 1200]
    header = np.repeat([1900, 1200, 1900, *vis], [30, 1, 30, *[3] * 10])  # steps of 10 ms
    durations_s, tones_hz = np.array([part[0] for part in SSTV_LINES[mode]]), [part[1] for part in SSTV_LINES[mode]]
    edges_s = np.cumsum(durations_s)
    lines, line_time_s = np.divmod(time_s - len(header) * 0.01, edges_s[-1])
    part = np.minimum(np.searchsorted(edges_s, line_time_s, side="right"), len(edges_s) - 1)
    column = (320 * (line_time_s - (edges_s - durations_s)[part]) / durations_s[part]).astype(int)
    channels = np.stack([picture(rng, 256, 320) for _ in range(2)])  # neighbouring colours differ
    brightness = channels[part % 2, lines.astype(int) % 256, np.clip(column, 0, 319)]
    tone_hz = np.array([0 if tone is None else tone for tone in tones_hz], float)[part]
    tone_hz = np.where(tone_hz == 0, 1500 + 800 * brightness, tone_hz)
    step = np.clip((time_s / 0.01).astype(int), 0, len(header) - 1)
    return np.where(lines < 0, header[step], tone_hz)


def vor(rng, num_samples, sampling_rate_hz):
    """VHF omnidirectional range (ICAO Annex 10, volume I, 3.3): AM of 30 % by 30 Hz and 30 % by a 9960 Hz subcarrier.

    The subcarrier is swung by +-480 Hz at 30 Hz; the phase between both 30 Hz tones is the bearing. Three letters of
    identification at 1020 Hz, depth 10 %, come every ten seconds.
    """
    time_s = np.arange(num_samples) / sampling_rate_hz
    reference = 2 * np.pi * 30 * time_s + rng.uniform(0, 2 * np.pi)
    bearing = rng.uniform(0, 2 * np.pi)
    letters = morse_units(rng.integers(0, 26, 3))
    keying = np.roll(letters + [0] * (60 - len(letters)), rng.integers(60))  # six units a second: 7 words a minute
    keying = np.resize(keying, int(num_samples / sampling_rate_hz * 6) + 2)
    message = 0.3 * np.sin(reference - bearing) + 0.3 * np.cos(2 * np.pi * 9960 * time_s - 16 * np.cos(reference))
    message += 0.1 * hold(keying, 6, sampling_rate_hz, num_samples) * np.sin(2 * np.pi * 1020 * time_s)
    return amplitude_modulation(message, 1.0)
