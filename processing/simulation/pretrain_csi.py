"""CSI amplitude of moving people and objects for masked pretraining, without labels.

One link over 64 subcarriers of 312.5 kHz at 2.4 or 5 GHz. The room is static: a direct path, which furniture may weaken,
and a diffuse tail. Bodies are the scatterers of `has`; they and machines are seen directly and through reflections of
the transmitter in the walls (bistatic radar equation), and torsos shadow the direct path. A path whose length changes
at a rate v shifts the carrier by -v / wavelength; the rate is at most twice the scatterer's speed. Sizes and speeds
are ordinary ranges, not measurements.

Receivers differ from row to row as chips do: unused subcarriers, ripple, gain control, 8 or 10-bit integers, packets
lost or reported twice, narrow-band interference.
"""

import json

import numpy as np

from processing import schema
from processing.simulation import has, random_generator
from processing.simulation.waveforms import complex_normal, phasor

TASK = "pretrain-csi"
IMAGE_VALUES = "CSI amplitude (linear) in steps of the converter, 1 or more: antennas x subcarriers x packets"
DEFAULT_SAMPLES = 3200
SPLITS = {"train": 0.9, "validation": 0.1}
OPTIONS = {}

NUM_PACKETS = 256
SPARE_PACKETS = 32  # simulated in addition, so that some can be lost
PACKET_RATE_HZ = (25.0, 150.0)
SUBCARRIER = np.arange(-32, 32)
SUBCARRIERS_HZ = 312.5e3 * SUBCARRIER
UNUSED = (np.abs(SUBCARRIER) > 26) | (SUBCARRIER == 0)  # legacy OFDM, IEEE 802.11-2020, 17.3.5.10
CARRIERS_HZ = ((2.412e9, 2.472e9), (5.18e9, 5.825e9))
LARGEST_INTEGERS = (127, 511)
NUM_REFLECTIONS = 3  # of the transmitter, in a random choice of the room's six faces

POSES = ("sit", "lie", "bend")  # from standing and back
MACHINES = ("fan", "door", "shaker")
# what moves -> how often it is drawn; two names move at the same time
SCENES = {
    ("nobody",): 2,
    ("stand",): 1,
    **{(name,): 2 for name in (*has.LABEL_NAMES, *POSES)},
    **{(name,): 1 for name in MACHINES},
    ("walk", "walk"): 1,
    ("walk", "sit"): 1,
    ("box", "circle"): 1,
    ("walk", "fan"): 1,
    ("clean", "run"): 1,
}
_NAMES = list(SCENES)
_SHARES = np.cumsum(list(SCENES.values())) / sum(SCENES.values())


class Mover:
    """Something that moves: `scatterers_m` (time, K, 3), `cross_sections_m2` (K,), `chest` (a scatterer) or None."""

    def __init__(self, scatterers_m, cross_sections_m2, chest=None):
        self.scatterers_m, self.cross_sections_m2, self.chest = scatterers_m, cross_sections_m2, chest


def _alternation(rng, time, duration_s):
    """0 to 1 and back, smoothly, each way in about `duration_s`, with pauses."""
    progress, up = np.zeros(len(time)), 1
    begin_s = rng.uniform(0, 0.4) * time[-1]
    while begin_s < time[-1]:
        length_s = duration_s * rng.uniform(0.8, 1.25)
        part = np.clip((time - begin_s) / length_s, 0, 1)
        progress += up * part**2 * (3 - 2 * part)
        begin_s, up = begin_s + length_s + rng.uniform(0.3, 2.5), -up
    return progress if rng.integers(2) else 1 - progress


def _pose(rng, name, height_m):
    """Forward and up (14,) in metres, in the body's axes, of somebody who sits, lies or bends down."""
    forward, up = np.zeros(14), has.HEIGHTS * height_m
    if name == "sit":
        up = up - 0.26 * height_m
        forward[has.ARMS], forward[has.HANDS], up[has.HANDS] = 0.15, 0.35, 0.33 * height_m
        forward[has.LEGS] = [0.2, 0.2, 0.42, 0.42, 0.42, 0.42]
        up[has.LEGS] = np.array([0.28, 0.28, 0.2, 0.2, 0.05, 0.05]) * height_m
    elif name == "lie":
        forward, up = up, np.full(14, rng.uniform(0.1, 0.6))
    elif name == "bend":
        angle, above_hip_m = rng.uniform(0.9, 1.6), np.maximum(up - 0.52 * height_m, 0)
        forward, up = above_hip_m * np.sin(angle), up - above_hip_m * (1 - np.cos(angle))
        forward[has.HANDS], up[has.HANDS] = 0.45, rng.uniform(0.15, 0.35) * height_m
    return forward, up


def person(rng, activity, time, room_size_m):
    """One person who does what `has` simulates, stands, or goes from standing to another pose and back.

    The activities of `has` are played at 0.35 to 1.2 times their speed.
    """
    if activity in has.LABEL_NAMES:
        pace = float(np.exp(rng.uniform(np.log(0.35), np.log(1.2))))
        return Mover(has.body_motion(rng, activity, pace * time, room_size_m), has.CROSS_SECTIONS_M2, has.CHEST)
    height_m, heading = rng.uniform(1.5, 1.9), rng.uniform(0, 2 * np.pi)
    spot = rng.uniform(0.8, room_size_m[:2] - 0.8)
    forward, up = _pose(rng, "stand", height_m)
    if activity in POSES:
        progress = _alternation(rng, time, float(np.exp(rng.uniform(np.log(0.8), np.log(3)))))[:, None]
        other_forward, other_up = _pose(rng, activity, height_m)
        forward, up = forward + progress * (other_forward - forward), up + progress * (other_up - up)
    breath_m = rng.uniform(0.002, 0.006) * np.sin(2 * np.pi * (rng.uniform(0.2, 0.4) * time + rng.random()))
    forward = forward + has.sway(rng, time, 0.005)[:, None] + breath_m[:, None] * (np.arange(14) < 4)
    left = has.SIDEWAYS_M + has.sway(rng, time, 0.005)[:, None]
    cosine, sine = np.cos(heading), np.sin(heading)
    place = [spot[0] + cosine * forward - sine * left, spot[1] + sine * forward + cosine * left]
    return Mover(np.stack([*place, np.broadcast_to(up, left.shape)], axis=2), has.CROSS_SECTIONS_M2, has.CHEST)


def machine(rng, name, time, room_size_m):
    """A fan's blades, the leaf of a door, or something that is moved to and fro."""
    spot = rng.uniform([0.5, 0.5, 0.6], room_size_m - [0.5, 0.5, 0.4])
    direction = rng.uniform(0, 2 * np.pi)
    level = np.array([np.cos(direction), np.sin(direction), 0])
    if name == "fan":
        num_blades, radius_m = rng.integers(3, 6), np.exp(rng.uniform(np.log(0.1), np.log(0.6)))
        # the tips keep below 8 m/s
        turns = min(np.exp(rng.uniform(np.log(0.5), np.log(10))), 8 / (2 * np.pi * radius_m)) * time[:, None]
        angle = 2 * np.pi * (turns + np.arange(num_blades) / num_blades)
        angle, reach_m = np.tile(angle, 2), np.repeat([0.5 * radius_m, radius_m], num_blades)
        second = np.cross(level, [0, 0, 1]) if rng.random() < 0.3 else np.array([0, 0, 1.0])  # ceiling or pedestal
        wheel = np.cos(angle)[..., None] * level + np.sin(angle)[..., None] * second
        return Mover(spot + reach_m[:, None] * wheel, np.full(2 * num_blades, 0.1 * radius_m))
    if name == "door":
        angle = direction + 0.5 * np.pi * _alternation(rng, time, rng.uniform(0.8, 4))[:, None]
        along = np.linspace(0.1, 0.85, 6)
        leaf = np.stack([along * np.cos(angle), along * np.sin(angle), np.zeros((len(time), 6))], axis=2)
        return Mover(spot * [1, 1, 0] + [0, 0, 1] + leaf, np.full(6, 0.2))
    rate_hz = np.exp(rng.uniform(np.log(0.3), np.log(4)))
    stroke_m = min(rng.uniform(0.01, 0.25), 2 / (2 * np.pi * rate_hz))  # keeps below 2 m/s
    moved = stroke_m * np.sin(2 * np.pi * (rate_hz * time + rng.random()))[:, None, None] * level
    parts = rng.normal(0, 0.15, (4, 3))
    return Mover(spot + parts + moved, rng.uniform(0.02, 0.2, 4))


class Link:
    """One transmitter and one receiver in a room of its own.

    Attributes:
        size_m: length, width, height. transmitter_m, receiver_m: (3,). wavelength_m: of the centre frequency.
        sources_m, source_gains: (1 + reflections, 3) and (1 + reflections,), the transmitter first.
        static: (64,) complex gain of the empty room. direct: (64,), the direct path alone.
    """

    def __init__(self, rng, center_frequency_hz):
        self.wavelength_m = has.SPEED_OF_LIGHT / center_frequency_hz
        self.carriers_hz = center_frequency_hz + SUBCARRIERS_HZ
        self.size_m = rng.uniform([3.5, 3.0, 2.4], [9.0, 7.0, 3.2])
        self.transmitter_m, self.receiver_m = rng.uniform(0.3, self.size_m - 0.3, (2, 3))
        while np.linalg.norm(self.transmitter_m - self.receiver_m) < 1.5:
            self.receiver_m = rng.uniform(0.3, self.size_m - 0.3)
        sources = [self.transmitter_m]
        for face in rng.permutation(6)[:NUM_REFLECTIONS]:
            axis, far = divmod(int(face), 2)
            image = self.transmitter_m.copy()
            image[axis] = 2 * far * self.size_m[axis] - image[axis]
            sources.append(image)
        self.sources_m = np.array(sources)
        self.source_gains = np.concatenate([[1], -rng.uniform(0.2, 0.5, NUM_REFLECTIONS)])

        distance_m = np.linalg.norm(self.sources_m - self.receiver_m, axis=1)
        gains = self.source_gains * self.wavelength_m / (4 * np.pi * distance_m)
        self.obstruction_db = rng.uniform(0, 15) if rng.random() < 0.4 else 0.0
        gains[0] *= 10 ** (-self.obstruction_db / 20)
        paths = gains * phasor(np.multiply.outer(self.carriers_hz, -distance_m / has.SPEED_OF_LIGHT))
        num_tail = 40
        tail_s = distance_m[0] / has.SPEED_OF_LIGHT + rng.exponential(rng.uniform(15e-9, 60e-9), num_tail)
        tail = complex_normal(rng, num_tail) * np.sqrt(rng.uniform(0.05, 0.5) * np.sum(gains**2) / num_tail)
        self.direct = paths[:, 0]
        self.static = paths.sum(1) + phasor(np.multiply.outer(self.carriers_hz, -tail_s)) @ tail

    def response(self, movers, num_packets):
        """Complex gain (64, packets) without noise."""
        response = np.repeat(self.static[:, None].astype(np.complex64), num_packets, axis=1)
        for mover in movers:
            positions_m = mover.scatterers_m
            to_receiver = np.linalg.norm(positions_m - self.receiver_m, axis=2).T
            from_source = np.linalg.norm(positions_m - self.sources_m[:, None, None], axis=3).transpose(0, 2, 1)
            amplitude = self.wavelength_m / (4 * np.pi) ** 1.5 * np.sqrt(mover.cross_sections_m2)[:, None]
            amplitude = amplitude * self.source_gains[:, None, None] / np.maximum(from_source, 0.3)
            amplitude = (amplitude / np.maximum(to_receiver, 0.3)).reshape(-1, num_packets).astype(np.float32)
            delay_s = ((from_source + to_receiver) / has.SPEED_OF_LIGHT).reshape(-1, num_packets)
            term, step = amplitude * phasor(-self.carriers_hz[0] * delay_s), phasor(-312.5e3 * delay_s)
            for number in range(len(response)):
                response[number] += term.sum(0)
                term *= step
            if mover.chest is not None:
                shadow = self.shadow(positions_m[:, mover.chest])
                response += (self.direct[:, None] * (shadow - 1)).astype(np.complex64)
        return response

    def shadow(self, chest_m):
        """Amplitude of the direct path behind a torso: down to 0.3 within its width and the first Fresnel zone."""
        length = np.linalg.norm(self.receiver_m - self.transmitter_m)
        direction = (self.receiver_m - self.transmitter_m) / length
        along = np.clip((chest_m - self.transmitter_m) @ direction, 0.2, length - 0.2)
        distance = np.linalg.norm(chest_m - self.transmitter_m - along[:, None] * direction, axis=1)
        fresnel_m = np.sqrt(self.wavelength_m * along * (length - along) / length)
        return 1 - 0.7 * np.exp(-((distance / (0.25 + fresnel_m)) ** 2))


def _gain_db(rng, power):
    """Gain control over packets whose received mean powers are given: none, steps, or a new setting for each packet."""
    kind = rng.integers(3)
    gain_db = rng.normal(0, rng.uniform(0.02, 0.3), len(power))  # resolution
    if kind == 1:
        changes = rng.random(len(power)) < rng.uniform(0.002, 0.05)
        gain_db += np.cumsum(changes * rng.normal(0, rng.uniform(0.1, 1.5), len(power)))
        gain_db -= gain_db.mean()
    elif kind == 2:
        wanted_db = -10 * np.log10(power / power.mean())
        step_db = rng.uniform(0.25, 2)
        gain_db += step_db * np.round((wanted_db + rng.normal(0, 0.5 * step_db, len(power))) / step_db)
    return gain_db


def receive(rng, response, snr_db, level_db, largest_integer, gain_db=0.0, ripple_db=0.0, interference=0.0):
    """CSI amplitude as reported, in steps of the converter; at least 1, also where I and Q round to nothing.

    Args:
        response: (64, packets) complex gain; its mean power is the reference of all levels.
        level_db: mean power of the report over one step. largest_integer: of I and of Q.
        gain_db, ripple_db: broadcast against `response`. interference: its power over the mean power, likewise.
    """
    mean_power = np.mean(np.abs(response) ** 2)
    received = response / np.float32(np.sqrt(mean_power))
    received += np.sqrt(10 ** (-snr_db / 10) + interference).astype(np.float32) * complex_normal(rng, response.shape)
    received *= np.float32(10 ** ((level_db + gain_db + ripple_db) / 20))
    reported = np.clip(np.rint(received.view(np.float32)), -largest_integer, largest_integer)
    return np.maximum(np.hypot(reported[:, ::2], reported[:, 1::2]), 1)


def _interference(rng, num_packets):
    """(64, packets) power over the mean power: bursts of a few packets on neighbouring subcarriers."""
    power = np.zeros((len(SUBCARRIER), num_packets), np.float32)
    for _ in range(rng.integers(1, 12)):
        low, first = rng.integers(0, 60), rng.integers(0, num_packets)
        width, length = rng.integers(3, 24), np.ceil(rng.exponential(8)).astype(int)
        power[low : low + width, first : first + length] += 10 ** (rng.uniform(-15, 10) / 10)
    return power


def _reported_packets(rng):
    """Which packets are in the report: some are lost, some come twice."""
    lost, twice = rng.uniform(0, 0.04, 2)
    draw = rng.random(NUM_PACKETS)
    step = 1 + (draw < lost) * rng.integers(1, 4, NUM_PACKETS) - (draw > 1 - twice)
    return np.clip(np.cumsum(step) - 1, 0, NUM_PACKETS + SPARE_PACKETS - 1)


def features():
    return schema.image_features(1, len(SUBCARRIER), NUM_PACKETS, is_csi=True)


def plan(split_samples):
    return {split: range(count) for split, count in split_samples.items()}


def rows(seed, split, index):
    """One recording: room, link, movers and receiver drawn anew."""
    rng = random_generator(seed, TASK, split, index)
    center_frequency_hz = float(rng.uniform(*CARRIERS_HZ[rng.integers(2)]))
    packet_rate_hz = float(np.exp(rng.uniform(*np.log(PACKET_RATE_HZ))))
    num_packets = NUM_PACKETS + SPARE_PACKETS
    time = np.arange(num_packets) / packet_rate_hz
    link = Link(rng, center_frequency_hz)
    names = _NAMES[np.searchsorted(_SHARES, rng.random())]
    movers = [
        (machine if name in MACHINES else person)(rng, name, time, link.size_m) for name in names if name != "nobody"
    ]
    response = link.response(movers, num_packets)

    largest_integer = LARGEST_INTEGERS[rng.integers(2)]
    # peaks of the fading over subcarriers and time fit into the integers
    level_db = 20 * np.log10(largest_integer) - rng.uniform(8, 18)
    ripple_db = np.cumsum(rng.normal(0, rng.uniform(0.02, 0.3), len(SUBCARRIER)))
    ripple_db += -rng.uniform(0, 4) * (SUBCARRIER / 32) ** 4 - ripple_db.mean()
    unused = rng.random() < 0.5
    if unused:
        ripple_db[UNUSED] = rng.uniform(-45, -25) + rng.normal(0, 2, UNUSED.sum())
    interfered, irregular = rng.random() < 0.25, rng.random() < 0.4
    interference = _interference(rng, num_packets) if interfered else 0.0
    gain_db = _gain_db(rng, np.mean(np.abs(response) ** 2, axis=0))
    snr_db = rng.uniform(15, 40)
    image = receive(
        rng, response, snr_db, level_db, largest_integer, gain_db, ripple_db[:, None], np.asarray(interference)
    )
    packets = _reported_packets(rng) if irregular else np.arange(NUM_PACKETS)
    parameters = {
        "movers": list(names),
        "room_size_m": link.size_m.tolist(),
        "obstruction_db": link.obstruction_db,
        "snr_db": snr_db,
        "largest_integer": largest_integer,
        "level_db": level_db,
        "unused_subcarriers": bool(unused),
        "interference": bool(interfered),
        "packets_lost_or_twice": bool(irregular),
    }
    recording = f"{TASK}-{seed}-{split}-{index}"
    yield {
        "image": image[None, :, packets].astype(np.float32),
        "unit": "linear",
        "recording": recording,
        "group": recording,
        "sampling_rate_hz": packet_rate_hz,
        "center_frequency_hz": center_frequency_hz,
        "start": 0,
        "parameters": json.dumps(parameters),
        "source": f"processing.simulation.{TASK}",
    }
