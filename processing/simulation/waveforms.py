"""Single-carrier, analogue and chirp waveforms in complex baseband. Multi-carrier ones are in `ofdm.py`.

Every function draws from the `rng` it is given and returns complex64 with mean power one while it transmits. Its
sampling rate is an argument, follows from `samples_per_symbol`, or is stated in the first line of its docstring.
"""

from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import fft
from scipy.signal import oaconvolve

GSM_SYMBOL_RATE_HZ = 1625e3 / 6  # 3GPP TS 45.004
LORA_PREAMBLE_SYMBOLS = 12.25  # eight up-chirps, two of sync word, two and a quarter down

# ITU-R M.1677: letters and figures.
MORSE_CODE = (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.. "
    "----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----."
).split()


def _square_qam(order):
    axis = np.arange(1 - np.sqrt(order), np.sqrt(order), 2)
    return (axis[:, None] + 1j * axis).ravel()


CONSTELLATIONS = {
    "bpsk": np.array([1, -1]),
    "qpsk": _square_qam(4),
    "8psk": np.exp(2j * np.pi * np.arange(8) / 8),
    "4ask": np.arange(4),  # the lowest level is off
    "16qam": _square_qam(16),
    "64qam": _square_qam(64),
    "256qam": _square_qam(256),
}
CONSTELLATIONS = {
    name: (points / np.sqrt(np.mean(np.abs(points) ** 2))).astype(np.complex64)
    for name, points in CONSTELLATIONS.items()
}


def phasor(cycles):
    """e^(2 pi j cycles) in complex64.

    Whole cycles are taken off first. The rest keeps its accuracy in float32, where NumPy's sine and cosine are ten times
    as fast as in float64.
    """
    phase = (cycles - np.rint(cycles)).astype(np.float32) * np.float32(2 * np.pi)
    phasors = np.empty(phase.shape, np.complex64)
    np.cos(phase, out=phasors.real)
    np.sin(phase, out=phasors.imag)
    return phasors


def complex_normal(rng, shape):
    """Circular Gaussian complex64 of mean power one, by the method of Box and Muller: twice as fast as NumPy's own."""
    uniform = rng.random((2, *np.atleast_1d(shape)), dtype=np.float32)
    radius = np.sqrt(-np.log(1 - uniform[0]))  # 1 - u is never zero
    noise = phasor(uniform[1])
    noise *= radius
    return noise


def random_symbols(rng, modulation, shape):
    """Independent symbols of a constellation in `CONSTELLATIONS`, mean power one."""
    points = CONSTELLATIONS[modulation]
    return points[rng.integers(0, len(points), shape)]


def random_cut(rng, samples, length):
    """`length` samples in a row from a random start."""
    start = rng.integers(0, len(samples) - length + 1)
    return samples[start : start + length]


@lru_cache
def root_raised_cosine(rolloff, samples_per_symbol, span_symbols=8):
    """Root raised cosine taps of unit energy (formula: 3GPP TS 25.104, 6.8.1), `span_symbols` on each side."""
    time = np.arange(-span_symbols * samples_per_symbol, span_symbols * samples_per_symbol + 1) / samples_per_symbol
    time = time + 1e-8  # steps off the removable singularities at 0 and 1 / (4 rolloff)
    numerator = np.sin(np.pi * time * (1 - rolloff)) + 4 * rolloff * time * np.cos(np.pi * time * (1 + rolloff))
    taps = numerator / (np.pi * time * (1 - (4 * rolloff * time) ** 2))
    return (taps / np.linalg.norm(taps)).astype(np.float32)


def _polyphase(taps, samples_per_symbol):
    """(num_symbols, samples_per_symbol): what each of the last symbols adds to the samples of one symbol period."""
    num_symbols = -(-len(taps) // samples_per_symbol)
    padded = np.pad(taps, (0, num_symbols * samples_per_symbol - len(taps)))
    return np.ascontiguousarray(padded.reshape(num_symbols, samples_per_symbol)[::-1])


def _filter_symbols(symbols, phases):
    """One pulse for each symbol, as `scipy.signal.upfirdn` makes it, without the run-in and the run-out."""
    return (np.ascontiguousarray(sliding_window_view(symbols, len(phases))) @ phases).ravel()


@lru_cache(maxsize=1024)
def _root_raised_cosine_phases(rolloff, samples_per_symbol):
    taps = root_raised_cosine(rolloff, samples_per_symbol) * np.float32(np.sqrt(samples_per_symbol))
    return _polyphase(taps, samples_per_symbol)


@lru_cache
def _gaussian_phases(bandwidth_time, samples_per_symbol):
    time = np.arange(-1.5, 1.5 + 0.5 / samples_per_symbol, 1 / samples_per_symbol)
    gaussian = np.exp(-2 * (np.pi * bandwidth_time * time) ** 2 / np.log(2))
    return _polyphase(np.convolve(np.ones(samples_per_symbol), gaussian / gaussian.sum()), samples_per_symbol)


def shape_pulses(symbols, samples_per_symbol, rolloff):
    """Root raised cosine pulses, one symbol every `samples_per_symbol` samples; the filter's run-in is cut off."""
    return _filter_symbols(symbols, _root_raised_cosine_phases(rolloff, samples_per_symbol))


def linear_modulation(rng, modulation, num_samples, samples_per_symbol, rolloff=0.35):
    """PSK, QAM or ASK with root raised cosine pulses. Sampling rate: `samples_per_symbol` times the symbol rate."""
    num_symbols = num_samples // samples_per_symbol + 18  # the filter spans 16 symbols
    return shape_pulses(random_symbols(rng, modulation, num_symbols), samples_per_symbol, rolloff)[:num_samples]


def dsss(rng, modulation, num_samples, samples_per_chip, chips_per_symbol=31, rolloff=0.35):
    """Direct-sequence spread spectrum, one random code repeated. Rate: `samples_per_chip` times the chip rate."""
    code = 1 - 2 * rng.integers(0, 2, chips_per_symbol)
    symbols = random_symbols(rng, modulation, num_samples // (samples_per_chip * chips_per_symbol) + 5)
    chips = (symbols[:, None] * code).ravel()[rng.integers(chips_per_symbol) :]
    return shape_pulses(chips[: num_samples // samples_per_chip + 18], samples_per_chip, rolloff)[:num_samples]


def frequency_shift_keying(symbols, samples_per_symbol, modulation_index, bandwidth_time=None):
    """Continuous-phase FSK of constant envelope. Sampling rate: `samples_per_symbol` times the symbol rate.

    Args:
        symbols: +-1 (or +-1/3, +-1 for four levels): deviation over the peak deviation.
        modulation_index: peak-to-peak deviation over symbol rate; 0.5 is minimum shift keying.
        bandwidth_time: 3 dB bandwidth of the Gaussian filter times symbol duration; None for square pulses.
    """
    if bandwidth_time is None:
        deviation = np.repeat(symbols, samples_per_symbol)
    else:
        padding = np.zeros(3)  # a pulse lasts four symbols: one, widened by a Gaussian over three
        padded = np.concatenate([padding, symbols, padding])
        deviation = _filter_symbols(padded, _gaussian_phases(bandwidth_time, samples_per_symbol))
        deviation = deviation[3 * samples_per_symbol // 2 :][: len(symbols) * samples_per_symbol]
    return phasor(0.5 * modulation_index / samples_per_symbol * np.cumsum(deviation))


def gfsk(rng, num_samples, samples_per_symbol, modulation_index=0.5, bandwidth_time=0.5, levels=2):
    """Gaussian FSK of random data: Bluetooth (0.32, BT 0.5), Bluetooth LE (0.5, BT 0.5), GSM (0.5, BT 0.3)."""
    alphabet = np.linspace(-1, 1, levels)
    symbols = alphabet[rng.integers(0, levels, num_samples // samples_per_symbol + 1)]
    return frequency_shift_keying(symbols, samples_per_symbol, modulation_index, bandwidth_time)[:num_samples]


def lora(rng, num_symbols, spreading_factor, oversampling, cut_length=None):
    """LoRa frame of `num_symbols` after the preamble. Sampling rate: `oversampling` times the bandwidth.

    Semtech AN1200.22: a symbol is one of 2^SF cyclic shifts of an up-chirp that lasts 2^SF / bandwidth. With
    `cut_length` only that many samples are made, from a random start in the frame.
    """
    chips, symbol_length = 2**spreading_factor, 2**spreading_factor * oversampling
    data = rng.integers(0, chips, num_symbols)
    shifts = np.concatenate([np.zeros(8, int), 8 * rng.integers(1, 16, 2), np.zeros(3, int), data])
    directions = np.ones(len(shifts))
    directions[10:13] = -1
    # in quarters of a symbol, because only a quarter of the last down-chirp is sent
    quarter = symbol_length // 4
    starts = np.delete(shifts[:, None] * oversampling + quarter * np.arange(4), [49, 50, 51])
    directions = np.delete(np.repeat(directions, 4), [49, 50, 51])
    start, stop = 0, len(starts) * quarter
    if cut_length is not None:
        start = rng.integers(0, stop - cut_length + 1)
        stop = start + cut_length
    first, last = start // quarter, -(-stop // quarter)
    frequency = (starts[first:last, None] + np.arange(quarter)) % symbol_length / symbol_length - 0.5
    frequency *= directions[first:last, None]
    return phasor(np.cumsum(frequency)[start - first * quarter : stop - first * quarter] / oversampling)


def audio(rng, num_samples, sampling_rate_hz, low_hz=50, high_hz=15e3):
    """Programme-like sound in -1 ... 1: noise falling 6 dB an octave above 500 Hz, loudness changing at 1 to 8 Hz."""
    size = fft.next_fast_len(num_samples, real=True)
    frequency = np.fft.rfftfreq(size, 1 / sampling_rate_hz)

    def noise(spectrum):
        sound = fft.irfft(complex_normal(rng, len(frequency)) * spectrum.astype(np.float32), size)[:num_samples]
        return sound / max(sound.std(), 1e-12)

    sound = noise(((frequency >= low_hz) & (frequency <= high_hz)) / np.sqrt(1 + (frequency / 500) ** 2))
    if num_samples > 0.2 * sampling_rate_hz:
        slow = np.exp(-((frequency / rng.uniform(1, 8)) ** 2))
        slow[0] = 0
        loudness_db = 6 * noise(slow)
    else:
        loudness_db = rng.uniform(-12, 0)
    loudness = 10 ** (np.minimum(loudness_db, 0) / 20) * rng.uniform(0.5, 1)
    return np.clip(0.35 * sound * loudness, -1, 1)


def frequency_modulation(message, deviation_hz, sampling_rate_hz):
    """FM of a real message in -1 ... 1 with the given peak deviation."""
    return phasor(deviation_hz / sampling_rate_hz * np.cumsum(message, dtype=np.float64))


def fm_broadcast(rng, num_samples, sampling_rate_hz):
    """Stereo broadcast FM at `sampling_rate_hz` (240 kHz or more), peak deviation 75 kHz.

    ITU-R BS.450: sum at base band, pilot at 19 kHz, difference on a suppressed carrier at 38 kHz; RDS at 57 kHz
    (IEC 62106: 1187.5 bit/s, biphase).
    """
    time = np.arange(num_samples) / sampling_rate_hz
    total, difference = audio(rng, num_samples, sampling_rate_hz), audio(rng, num_samples, sampling_rate_hz)
    pilot = phasor(19e3 * time + rng.random())
    subcarrier = pilot * pilot
    half_bit = (time * 2 * 1187.5).astype(int)
    bits = 1 - 2 * rng.integers(0, 2, half_bit[-1] // 2 + 1)
    biphase = np.stack([bits, -bits], axis=1).astype(np.float32).ravel()[half_bit]
    multiplex = 0.6 * total + 0.25 * difference * subcarrier.imag
    multiplex += 0.09 * pilot.imag + 0.03 * biphase * (subcarrier * pilot).imag
    return frequency_modulation(multiplex, 75e3, sampling_rate_hz)


def am_voice(rng, num_samples, sampling_rate_hz, depth=0.8):
    """Double-sideband AM of a voice band (300 to 3400 Hz) at `sampling_rate_hz`, mean power about one."""
    carrier = 1 + depth * audio(rng, num_samples, sampling_rate_hz, 300, 3400)
    return (carrier / np.sqrt(np.mean(carrier**2))).astype(np.complex64)


def morse_units(letters):
    """Keying (one or zero a unit) of letters given by their places in `MORSE_CODE`, each with the gap after it."""
    units = []
    for letter in letters:
        for mark in MORSE_CODE[letter]:
            units += [1] * (3 if mark == "-" else 1) + [0]
        units += [0, 0]
    return units


def morse(rng, num_samples, sampling_rate_hz, words_per_minute):
    """Morse telegraphy (ITU-R M.1677) at `sampling_rate_hz`: carrier of power one, keyed with ramps of 5 ms."""
    unit = max(1, round(1.2 / words_per_minute * sampling_rate_hz))
    num_units = num_samples // unit + 60
    keying = []
    while len(keying) < num_units:
        keying += morse_units(rng.integers(0, len(MORSE_CODE), rng.integers(2, 9))) + [0] * 4
    start = rng.integers(0, 50 * unit)
    envelope = np.repeat(np.array(keying, np.float32), unit)[start : start + num_samples]
    ramp = np.hanning(max(3, round(0.005 * sampling_rate_hz) + 2)).astype(np.float32)
    return oaconvolve(envelope, ramp / ramp.sum(), mode="same").astype(np.complex64)


def remote_control(rng, num_samples, sampling_rate_hz, chip_s, num_bits=24, manchester=False):
    """On-off keyed remote control at `sampling_rate_hz`: one code word repeated, carrier of power one.

    A bit is four chips (1000 or 1110, pulse width) or, for `manchester`, two (10 or 01); a word ends in a pause of 31
    chips after a sync pulse, as the common encoder chips do.
    """
    table = np.array([[1, 0], [0, 1]] if manchester else [[1, 0, 0, 0], [1, 1, 1, 0]], np.float32)
    word = np.concatenate([table[rng.integers(0, 2, num_bits)].ravel(), [1], np.zeros(31, np.float32)])
    chip = (np.arange(num_samples) / (sampling_rate_hz * chip_s)).astype(int)
    return word[chip % len(word)].astype(np.complex64)


def pocsag(rng, num_samples, sampling_rate_hz, bit_rate_hz):
    """POCSAG page (ITU-R M.584) at `sampling_rate_hz`: 2-FSK of +-4.5 kHz, 576 bits of preamble, then batches."""
    codewords = np.array([0x7CD215D8] + 16 * [0x7A89C197], np.uint32)  # synchronisation, then idle
    num_batches = int(num_samples / sampling_rate_hz * bit_rate_hz) // 544 + 1
    batches = np.tile(codewords, (num_batches, 1))
    busy = rng.random((num_batches, 16)) < 0.7
    batches[:, 1:][busy] = rng.integers(0, 2**32, busy.sum(), dtype=np.uint32)
    bits = (batches[..., None] >> np.arange(31, -1, -1, dtype=np.uint32)) & 1
    bits = np.concatenate([np.arange(1, 577) % 2, bits.ravel()])
    bit = (np.arange(num_samples) * (bit_rate_hz / sampling_rate_hz)).astype(int)
    edge = np.hanning(max(3, round(0.4 * sampling_rate_hz / bit_rate_hz)) + 2)  # transmitters round the steps off
    return frequency_modulation(oaconvolve(1 - 2.0 * bits[bit], edge / edge.sum(), "same"), 4.5e3, sampling_rate_hz)
