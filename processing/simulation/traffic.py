"""What the services of `services.py` send during a capture: traffic functions, see `scene`."""

import numpy as np

from processing.simulation import ofdm, services
from processing.simulation.impairments import carrier_offset
from processing.simulation.scene import Emitter, insert, silence
from processing.simulation.waveforms import frequency_modulation, random_cut


def _gain(rng, low_db):
    """Amplitude of one more transmitter: `low_db` to 0 dB relative to the strongest."""
    return np.float32(10 ** (rng.uniform(low_db, 0) / 20))


def _push_to_talk(rng, duration_s, rate, waveform, bandwidth_hz, largest_offset_hz):
    """A conversation: two stations, each with its level and carrier offset, take turns of seconds with pauses."""
    timeline = silence(duration_s, rate)
    gains, offsets_hz = [np.float32(1), _gain(rng, -15)], rng.uniform(-1, 1, 2) * largest_offset_hz
    talks_s = rng.uniform(1, 8)
    time_s, turn = rng.uniform(-0.7, 0.3) * min(duration_s, talks_s), 0
    while time_s < duration_s:
        stop_s = time_s + talks_s
        first = int(max(time_s, 0) * rate)
        num_samples = int(min(stop_s, duration_s) * rate) - first
        if num_samples > 0.05 * rate:
            samples = waveform(rng, num_samples) * carrier_offset(num_samples, offsets_hz[turn % 2], rate)
            insert(timeline, first, samples * gains[turn % 2])
        time_s, turn, talks_s = stop_s + rng.uniform(0.2, 1.5), turn + 1, rng.uniform(1, 6)
    return [Emitter(timeline, rate, bandwidth_hz)]


def airband(rng, duration_s, band_hz):
    """Pilot and controller on one AM voice channel."""
    rate, depth = 12e3, rng.uniform(0.7, 0.95)

    def speech(rng, num_samples):
        return services.amplitude_modulation(services.voice(rng, num_samples, rate), depth)

    return _push_to_talk(rng, duration_s, rate, speech, 6e3, 300)


def land_mobile(rng, duration_s, band_hz):
    """Two hand-held radios on one narrow-band FM voice channel, deviation 2.5 kHz."""

    def speech(rng, num_samples):
        return frequency_modulation(services.voice(rng, num_samples, 24e3), 2.5e3, 24e3)

    return _push_to_talk(rng, duration_s, 24e3, speech, 8e3, 500)


def digital_voice(rng, duration_s, band_hz):
    """One call: a repeater, on all the time, or a hand-held radio; that of DMR sends 27.5 ms in every 60 ms."""
    standard = str(rng.choice([*services.DIGITAL_VOICE_HZ, "d-star"]))
    symbol_rate_hz, deviation_hz = services.DIGITAL_VOICE_HZ.get(standard, (4800, 1200))
    rate, phase_s = 10.0 * symbol_rate_hz, rng.uniform(0, 60e-3)
    time_division = standard == "dmr" and rng.random() < 0.5

    def call(rng, num_samples):
        samples = services.digital_voice(rng, num_samples // 10 + 1, standard, 10)[:num_samples]
        if time_division:
            samples = samples * ((np.arange(num_samples) / rate + phase_s) % 60e-3 < 27.5e-3)
        return samples

    if rng.random() < 0.4 and not time_division:
        return [Emitter(call(rng, round(duration_s * rate)), rate, symbol_rate_hz + 2 * deviation_hz)]
    return _push_to_talk(rng, duration_s, rate, call, symbol_rate_hz + 2 * deviation_hz, 500)


def ads_b(rng, duration_s, band_hz):
    """1090 MHz: Mode S replies of many aircraft, of which one is near, among replies to ordinary secondary radars."""
    rate = services.ADS_B_SAMPLING_RATE_HZ
    timeline = silence(duration_s, rate)
    messages = [(1.0, services.ads_b(rng))]
    messages += [
        (_gain(rng, -25), services.ads_b(rng, rng.random() < 0.4))
        for _ in range(rng.poisson(duration_s * 10 ** rng.uniform(2, 3.3)))
    ]
    messages += [
        (_gain(rng, -25), services.mode_a_c(rng)) for _ in range(rng.poisson(duration_s * 10 ** rng.uniform(2, 3.3)))
    ]
    for number, (gain, samples) in enumerate(messages):
        offset_hz = rng.uniform(-0.5e6, 0.5e6)  # the transponders' tolerance is 1 MHz
        start = rng.uniform(0.02, 0.9) if number == 0 else rng.uniform(0, 1)
        phasor = carrier_offset(len(samples), offset_hz, rate) * np.exp(2j * np.pi * rng.random())
        insert(timeline, int(start * len(timeline)), (gain * samples * phasor).astype(np.complex64))
    return [Emitter(timeline, rate, 2e6)]


def distance_measuring(rng, duration_s, band_hz):
    """DME ground station: pairs of Gaussian pulses of 3.5 us, 12 us apart, at random (ICAO Annex 10, I, 3.5)."""
    rate = 4e6
    timeline, time_s = silence(duration_s, rate), (np.arange(80) - 16) / rate
    pair = sum(np.exp(-4 * np.log(2) * ((time_s - delay_s) / 3.5e-6) ** 2) for delay_s in (0, 12e-6))
    for start in rng.integers(0, len(timeline), rng.poisson(duration_s * rng.uniform(700, 2700))):
        insert(timeline, start, pair.astype(np.complex64))
    return [Emitter(timeline, rate, 400e3)]


def ais(rng, duration_s, band_hz):
    """Ships in the slots of one or, if the band is wide enough, both channels, 50 kHz apart."""
    rate, load, emitters = services.AIS_SAMPLING_RATE_HZ, rng.uniform(0.1, 0.7), []
    phase_s = rng.uniform(0, services.AIS_SLOT_S)
    num_slots = int(duration_s / services.AIS_SLOT_S) + 1
    for channel_hz in (-25e3, 25e3) if band_hz > 80e3 else (0.0,):
        timeline, slot = silence(duration_s, rate), 0
        near = rng.integers(1, num_slots - 1)
        while slot < num_slots:
            length = 2 if slot not in (near - 1, near) and rng.random() < 0.2 else 1
            if slot == near or rng.random() < load:
                samples = services.ais(rng, length)
                phasor = carrier_offset(len(samples), rng.uniform(-500, 500), rate)
                gain = np.float32(1) if slot == near else _gain(rng, -25)
                insert(timeline, int((slot * services.AIS_SLOT_S - phase_s) * rate), gain * samples * phasor)
            slot += length
        emitters.append(Emitter(timeline, rate, 12e3, channel_hz, 0.0 if not emitters else rng.uniform(-6, 0)))
    return emitters


def packet(rng, duration_s, band_hz):
    """Stations that share one channel: the first heard well, each listening before it sends."""
    rate = 24e3
    timeline, mean_pause_s = silence(duration_s, rate), rng.uniform(0.1, 1) * duration_s
    time_s, gain = rng.uniform(-0.2, 0.4) * min(duration_s, 1), np.float32(1)
    while time_s < duration_s:
        samples = services.packet(rng, rate, rng.integers(40, 140), rng.integers(20, 70))
        samples = samples * carrier_offset(len(samples), rng.uniform(-500, 500), rate)
        insert(timeline, int(time_s * rate), gain * samples)
        time_s += len(samples) / rate + 0.05 + rng.exponential(mean_pause_s)
        gain = _gain(rng, -15)
    return [Emitter(timeline, rate, 10e3)]


def automatic_picture_transmission(rng, duration_s, band_hz):
    """One weather satellite."""
    rate = 96e3
    return [Emitter(services.automatic_picture_transmission(rng, round(duration_s * rate), rate), rate, 36e3)]


def radioteletype(rng, duration_s, band_hz):
    """One station: amateur (45.45 baud, 170 Hz), weather service (50 baud, 450 Hz) or press (75 baud, 850 Hz)."""
    baud, shift_hz = [(45.45, 170), (50, 450), (75, 850)][rng.choice(3, p=[0.5, 0.35, 0.15])]
    return [
        Emitter(services.radioteletype(rng, round(duration_s * 4e3), 4e3, baud, shift_hz), 4e3, shift_hz + 2 * baud)
    ]


def keyless_entry(rng, duration_s, band_hz):
    """A car key pressed once or more: each time a few frames, keyed on and off or by FSK."""
    rate = 200e3
    timeline, chip_s = silence(duration_s, rate), 10 ** rng.uniform(-3.7, -3.3)
    deviation_hz = rng.uniform(20e3, 40e3) if rng.random() < 0.5 else 0.0
    pause_s = rng.uniform(10e-3, 50e-3) if deviation_hz else 39 * chip_s
    time_s = rng.uniform(-0.1, 0.4) * min(duration_s, 0.3)
    while time_s < duration_s:
        frame = services.keyless_entry(rng, rate, chip_s, deviation_hz)  # the code rolls from press to press
        for _ in range(rng.integers(2, 6)):
            insert(timeline, int(time_s * rate), frame)
            time_s += len(frame) / rate + pause_s
        time_s += rng.uniform(0.2, 1.0)
    return [Emitter(timeline, rate, 2 * deviation_hz + 2 / chip_s)]


def radiosonde(rng, duration_s, band_hz):
    """One sonde that sends a frame a second."""
    rate = services.RS41_SAMPLING_RATE_HZ
    timeline = silence(duration_s, rate)
    first_s = rng.uniform(-0.45, 0.4) * min(duration_s, 1)
    for number in range(int(duration_s) + 2):
        insert(timeline, int((first_s + number) * rate), services.radiosonde(rng))
    return [Emitter(timeline, rate, 7e3)]


def slow_scan_television(rng, duration_s, band_hz):
    """One picture, by single sideband or, where the band has room for it, by FM with a deviation of 3 kHz."""
    mode = str(rng.choice(list(services.SSTV_LINES)))
    by_fm = band_hz > 12e3 and rng.random() < 0.5
    rate = 24e3 if by_fm else 8e3
    start_s = rng.uniform(-0.3, 0.9) if rng.random() < 0.25 else rng.uniform(1, 80)
    tone_hz = services.sstv_frequency_hz(rng, round(duration_s * rate), rate, mode, max(start_s, 0))
    phase = 2 * np.pi / rate * np.cumsum(tone_hz)
    if by_fm:
        return [Emitter(frequency_modulation(np.sin(phase), 3e3, rate), rate, 10e3)]
    # around the middle of the tones, so that the emitter lies around its own frequency
    centred = np.exp(1j * (phase - 2 * np.pi / rate * 1750 * np.arange(1, len(phase) + 1)))
    return [Emitter(centred.astype(np.complex64), rate, 1.2e3)]


def vor(rng, duration_s, band_hz):
    """One beacon."""
    return [Emitter(services.vor(rng, round(duration_s * 30e3), 30e3), 30e3, 21e3)]


def digital_audio_broadcasting(rng, duration_s, band_hz):
    """One ensemble."""
    rate = 2.048e6
    frames = ofdm.digital_audio_broadcasting(rng, int(duration_s / 96e-3) + 2)
    return [Emitter(random_cut(rng, frames, round(duration_s * rate)), rate, 1.536e6)]
