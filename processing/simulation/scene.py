"""A received band: emitters with their traffic, mixed into one wideband capture and turned into a spectrogram.

A traffic function `(rng, duration_s, band_hz) -> list of Emitter` gives what one service sends during a capture that
is `band_hz` wide, around an offset of 0 Hz.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy import fft

from processing.simulation import ofdm, waveforms
from processing.simulation.impairments import awgn, iq_imbalance, mean_power, simo_channel
from processing.simulation.waveforms import random_cut

IMAGE_SIZE = 224
FFT_SIZE = 512
GUARD_SAMPLES = 1024  # cut from the end of a capture: mixing in the frequency domain joins the end to the beginning


class Emitter(NamedTuple):
    """What one transmitter sends on one carrier, from the first to the last instant of the capture."""

    samples: np.ndarray  # power one while it is on
    sampling_rate_hz: float
    bandwidth_hz: float
    offset_hz: float = 0.0
    gain_db: float = 0.0


def silence(duration_s, sampling_rate_hz):
    """A timeline on which nothing is sent yet."""
    return np.zeros(round(duration_s * sampling_rate_hz), np.complex64)


def insert(timeline, start, samples):
    """Adds `samples` from `start` on, as far as they lie inside the timeline."""
    first, last = max(start, 0), min(start + len(samples), len(timeline))
    if first < last:
        timeline[first:last] += samples[first - start : last - start]


def wifi(rng, duration_s, band_hz):
    """802.11a/g data frames, each answered after SIFS (16 us), then a random pause."""
    rate = ofdm.WIFI_SAMPLING_RATE_HZ
    timeline, mean_pause_s = silence(duration_s, rate), 10 ** rng.uniform(-4.3, -3)
    data_gain, answer_gain = 10 ** (np.array([0, rng.uniform(-15, 0)]) / 20).astype(np.float32)
    position = int(rng.uniform(-0.5, 0.5) * min(duration_s, 1e-3) * rate)
    while position < len(timeline):
        frame = ofdm.wifi_frame(rng, rng.integers(10, 260), rng.choice(["qpsk", "16qam", "64qam"]))
        insert(timeline, position, data_gain * frame)
        position += len(frame) + 320
        answer = ofdm.wifi_frame(rng, 7, "qpsk")
        insert(timeline, position, answer_gain * answer)
        position += len(answer) + int(rate * (34e-6 + rng.exponential(mean_pause_s)))
    return [Emitter(timeline, rate, 16.6e6)]


def bluetooth(rng, duration_s, band_hz):
    """Bluetooth BR piconet: GFSK packets of one, three or five slots of 625 us, a new 1 MHz channel for each."""
    rate, slot_s = 4e6, 625e-6
    half_span = int(max(min(band_hz * 0.45, 39e6) // 1e6, 1))
    index, reply_db, emitters = rng.uniform(0.28, 0.35), rng.uniform(-12, 0), []
    time_s, is_reply = rng.uniform(-0.3, 0.3) * min(slot_s, duration_s), False
    while time_s < duration_s:
        num_slots, packet_s = [(1, 366e-6), (3, 1622e-6), (5, 2870e-6)][rng.choice(3, p=[0.6, 0.25, 0.15])]
        timeline = silence(duration_s, rate)
        insert(timeline, int(time_s * rate), waveforms.gfsk(rng, int(packet_s * rate), 4, index))
        channel_hz = 1e6 * rng.integers(-half_span, half_span + 1)
        emitters.append(Emitter(timeline, rate, 1e6, channel_hz, reply_db if is_reply else 0.0))
        time_s += num_slots * slot_s * (1 if rng.random() < 0.8 else 2)
        is_reply = not is_reply
    return emitters


def bluetooth_low_energy(rng, duration_s, band_hz):
    """Bluetooth LE connection event: packets 150 us apart, to and fro, on one 2 MHz channel."""
    rate = 4e6
    half_span = int(max(min(band_hz * 0.45, 39e6) // 2e6, 1))
    timeline, reply_gain = silence(duration_s, rate), np.float32(10 ** (rng.uniform(-12, 0) / 20))
    position = int(rng.uniform(-0.2, 0.4) * duration_s * rate)
    for number in range(2 * rng.integers(1, 6)):
        packet = waveforms.gfsk(rng, int(rng.uniform(80e-6, 700e-6) * rate), 4, 0.5)
        insert(timeline, position, packet * (reply_gain if number % 2 else 1))
        position += len(packet) + int(150e-6 * rate)
    return [Emitter(timeline, rate, 1e6, 2e6 * rng.integers(-half_span, half_span + 1))]


def lte(rng, duration_s, band_hz):
    """One LTE downlink carrier, as wide as the band allows or narrower."""
    fitting = [blocks for blocks in ofdm.LTE_FFT_SIZES if 180e3 * blocks < 0.9 * band_hz] or [6]
    blocks = int(rng.choice(fitting[-3:]))
    rate = 15e3 * ofdm.LTE_FFT_SIZES[blocks]
    num_samples = round(duration_s * rate)
    num_subframes = int(duration_s * 1e3) + 2
    cell = ofdm.lte_downlink(rng, num_subframes, blocks, rng.uniform(0.05, 1), rng.integers(504))
    return [Emitter(random_cut(rng, cell, num_samples), rate, 180e3 * blocks)]


def nr(rng, duration_s, band_hz):
    """One NR downlink carrier of 5, 10 or 20 MHz with idle slots."""
    grids = [(0, 25), (0, 52), (1, 24), (1, 51)]
    fitting = [grid for grid in grids if 180e3 * 2 ** grid[0] * grid[1] < 0.9 * band_hz] or grids[:1]
    numerology, blocks = fitting[rng.integers(len(fitting))]
    rate = 15e3 * 2**numerology * ofdm.nr_fft_size(blocks)
    num_samples = round(duration_s * rate)
    num_slots = int(duration_s * 1e3 * 2**numerology) + 2
    cell = ofdm.nr_downlink(rng, num_slots, blocks, numerology, rng.uniform(0.3, 1), rng.uniform(0.4, 1))
    return [Emitter(random_cut(rng, cell, num_samples), rate, 180e3 * 2**numerology * blocks)]


def gsm(rng, duration_s, band_hz):
    """GSM base station: one carrier always on, others with bursts of 148 symbols in slots of 156.25 (TS 45.002)."""
    rate = 4 * waveforms.GSM_SYMBOL_RATE_HZ
    num_samples, emitters = round(duration_s * rate), []
    half_span = int(max(min(band_hz * 0.4, 5e6) // 200e3, 1))
    channels = rng.permutation(np.arange(-half_span, half_span + 1))[: rng.integers(1, 5)]
    for number, channel in enumerate(channels):
        samples = waveforms.gfsk(rng, num_samples, 4, 0.5, 0.3)
        if number:
            slot, symbol = np.divmod(np.arange(num_samples) / 4 + rng.uniform(0, 1250), 156.25)
            slot_gain = 10 ** (rng.uniform(-20, 0, 8) / 20) * (rng.random(8) < 0.6)
            samples = samples * (slot_gain[slot.astype(int) % 8] * (symbol < 148)).astype(np.float32)
        emitters.append(Emitter(samples, rate, 200e3, 200e3 * channel))
    return emitters


def lora(rng, duration_s, band_hz):
    """LoRa frames of one node, of a spreading factor for which symbols can be seen in the capture."""
    bandwidth = float(rng.choice([125e3, 250e3, 500e3][: 1 if band_hz < 300e3 else 2 if band_hz < 600e3 else 3]))
    fitting = [sf for sf in range(7, 13) if 4 < duration_s * bandwidth / 2**sf < 160] or [7]
    factor = int(rng.choice(fitting))
    rate, timeline = 2 * bandwidth, silence(duration_s, 2 * bandwidth)
    position = int(rng.uniform(-0.4, 0.4) * duration_s * rate)
    while position < len(timeline):
        frame = waveforms.lora(rng, int(rng.integers(8, 80)), factor, 2)
        insert(timeline, position, frame[: max(len(timeline) - position, 0)])
        position += len(frame) + int(rng.uniform(0.1, 1) * duration_s * rate)
    return [Emitter(timeline, rate, bandwidth)]


def fm(rng, duration_s, band_hz):
    """One stereo broadcast station."""
    return [Emitter(waveforms.fm_broadcast(rng, round(duration_s * 300e3), 300e3), 300e3, 130e3)]


def remote_control(rng, duration_s, band_hz):
    """A remote control's button pressed during part of the capture; its resonator drifts by some kHz."""
    rate = 100e3
    timeline = silence(duration_s, rate)
    start = int(rng.uniform(-0.3, 0.3) * len(timeline))
    pressed_s = max(rng.uniform(0.2, 1.5), 0.4 * duration_s)
    chip_s, manchester = 10 ** rng.uniform(-3.6, -3), bool(rng.integers(2))
    code = waveforms.remote_control(rng, int(pressed_s * rate), rate, chip_s, rng.integers(12, 41), manchester)
    drift = waveforms.frequency_modulation(np.exp(-np.arange(len(code)) / (0.2 * rate)), rng.uniform(-3e3, 3e3), rate)
    insert(timeline, start, code * drift)
    return [Emitter(timeline, rate, 2 / chip_s)]


def morse(rng, duration_s, band_hz):
    """One operator, 12 to 30 words a minute."""
    samples = waveforms.morse(rng, round(duration_s * 2e3), 2e3, rng.uniform(12, 30))
    return [Emitter(samples, 2e3, 30)]


def pocsag(rng, duration_s, band_hz):
    """Pages of one paging transmitter, which may begin or end during the capture."""
    rate, timeline = 40e3, silence(duration_s, 40e3)
    page = waveforms.pocsag(rng, int(rng.uniform(0.6, 3) * rate), rate, rng.choice([512, 1200, 2400]))
    start = rng.uniform(-0.5, 0.4) * min(duration_s, len(page) / rate)
    insert(timeline, int(start * rate), page)
    return [Emitter(timeline, rate, 12e3)]


def spur(rng, duration_s, band_hz):
    """An unmodulated carrier, as clocks leave behind."""
    rate = 1e3 / min(duration_s, 1.0)
    return [Emitter(np.ones(round(duration_s * rate), np.complex64), rate, 0.0)]


def capture_length(num_samples):
    """Samples to simulate for a capture of `num_samples`."""
    return fft.next_fast_len(num_samples + GUARD_SAMPLES)


def _multipath_response(rng, num_bins, sampling_rate_hz):
    channel = simo_channel(rng, 1, 10 ** rng.uniform(-7.7, -6.7), rng.uniform(-3, 15), num_paths=8)
    coarse_hz = np.linspace(-0.5, 0.5, 257) * sampling_rate_hz  # far finer than the coherence bandwidth
    coarse = (channel.gains @ np.exp(-2j * np.pi * np.outer(channel.delays_s, coarse_hz)))[0]
    fine_hz = np.linspace(-0.5, 0.5, num_bins) * sampling_rate_hz
    return np.interp(fine_hz, coarse_hz, coarse).astype(np.complex64)


def receive(rng, emitters, snrs_db, num_samples, sampling_rate_hz):
    """Capture of `num_samples` at `sampling_rate_hz`: emitters, each `snrs_db` above the noise in its own band.

    Wideband emitters pass a multipath channel of 20 to 200 ns rms delay spread. The noise power in the whole band is
    one. The receiver adds an image (IQ imbalance) and a carrier at its centre.
    """
    size = capture_length(num_samples)
    spectrum = np.zeros(size, np.complex64)
    for emitter, snr_db in zip(emitters, snrs_db, strict=True):
        part = fft.fftshift(fft.fft(emitter.samples))
        if emitter.bandwidth_hz > 500e3:
            part *= _multipath_response(rng, len(part), emitter.sampling_rate_hz)
        noise_power = max(emitter.bandwidth_hz / sampling_rate_hz, 1 / FFT_SIZE)
        part *= np.float32(np.sqrt(noise_power * 10 ** ((snr_db + emitter.gain_db) / 10)) * size / len(part))
        first = size // 2 + round(size * emitter.offset_hz / sampling_rate_hz) - len(part) // 2
        # what lies outside the band does not pass the receiver's filter
        low, high = max(first, 0), min(first + len(part), size)
        if low < high:
            spectrum[low:high] += part[low - first : high - first]
    capture = awgn(rng, fft.ifft(fft.ifftshift(spectrum))[:num_samples], 0.0, signal_power=1.0)
    capture = iq_imbalance(capture, rng.normal(0, 0.1), rng.normal(0, 0.5))
    return capture + np.complex64(np.sqrt(10 ** (rng.uniform(-30, -5) / 10)) * np.exp(2j * np.pi * rng.random()))


def front_end_response_db(rng):
    """Gain over the rows of an image: a tilt of up to +-2 dB and a filter that rolls off at the edges of the band."""
    position = np.linspace(-1, 1, IMAGE_SIZE)
    return rng.uniform(-2, 2) * position - rng.uniform(0, 8) * np.abs(position) ** rng.uniform(12, 40)


def spectrogram_db(capture, size=IMAGE_SIZE):
    """(size, size) float32 spectrogram in dB: frequency on rows, lowest first, time on columns.

    Hann window of 512 samples; 0 dB is a complex tone of amplitude one. Resized with an antialiased bicubic filter.
    """
    hop = max(FFT_SIZE // 4, min(len(capture) // FFT_SIZE, FFT_SIZE))
    window = np.hanning(FFT_SIZE + 1)[:-1].astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(capture, FFT_SIZE)[::hop] * (window / window.sum())
    lines = fft.fftshift(fft.fft(frames, axis=1), axes=1)
    decibel = 10 * np.log10(lines.real**2 + lines.imag**2 + np.float32(1e-16)).T
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a process made by fork must not enter its parent's OpenMP threads
    image = torch.nn.functional.interpolate(
        torch.from_numpy(np.ascontiguousarray(decibel))[None, None], (size, size), mode="bicubic", antialias=True
    )
    torch.set_num_threads(threads)
    return image[0, 0].numpy()


def received_image(rng, emitters, snrs_db, num_samples, sampling_rate_hz, level_dbfs):
    """(1, 224, 224) spectrogram of a capture whose mean power is `level_dbfs` (dB relative to full scale)."""
    capture = receive(rng, emitters, snrs_db, num_samples, sampling_rate_hz)
    gain_db = level_dbfs - 10 * np.log10(mean_power(capture))
    return (spectrogram_db(capture) + (gain_db + front_end_response_db(rng))[:, None]).astype(np.float32)[None]
