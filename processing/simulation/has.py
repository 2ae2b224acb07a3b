"""Human activity from Wi-Fi: which of six activities one person does, from the CSI amplitude of a receiver with three
antennas across the room.

802.11n channel of 40 MHz at 5.32 GHz. The room is static: a direct path, its images in the walls up to second order
and an exponential diffuse tail. A person is 14 point scatterers that move as limbs, head and torso do; each is seen
directly and through the first-order images of the transmitter (bistatic radar equation), and the torso shadows the
direct path. Nothing else moves. Sizes, speeds and cross-sections are ordinary human ranges, not measurements.
Level is that of room and receiver and does not tell the activity; its spread over time and frequency tells hardly
more, as moving bodies spread it a little more than standing ones.

Motion is a smooth function of time, evaluated at 125 packets a second. That is what is left of a capture with 500
packets a second by keeping every fourth without a filter, as is done with the measured data; the fastest limbs alias.
"""

import json
from itertools import product

import numpy as np

from processing import schema
from processing.simulation import random_generator
from processing.simulation.impairments import rms_delay_spread_s

TASK = "has"
IMAGE_VALUES = "CSI amplitude in dB over one step of the converter: antennas x subcarriers x packets"
DEFAULT_SAMPLES = 2400
SPLITS = {"train": 0.7, "validation": 0.1, "test": 0.2}
OPTIONS = {}
LABEL_NAMES = ["box", "circle", "clean", "fall", "run", "walk"]
ROWS_PER_ROOM = 24

SPEED_OF_LIGHT = 299792458.0
CENTER_FREQUENCY_HZ = 5.32e9
WAVELENGTH_M = SPEED_OF_LIGHT / CENTER_FREQUENCY_HZ
# IEEE 802.11-2020, 19.3.7: the 114 subcarriers in use of a 40 MHz HT channel
SUBCARRIERS_HZ = 312.5e3 * np.concatenate([np.arange(-58, -1), np.arange(2, 59)])
NUM_ANTENNAS, NUM_PACKETS, PACKET_RATE_HZ = 3, 500, 125.0
# The chip reports I and Q as 10-bit integers; its gain control puts the mean power at this level, in dB over one step.
LEVEL_DB = 44.0
LARGEST_INTEGER = 511

# Scatterers of a standing body: cross-section in m^2, sideways in m, height over body height. Left is +1.
CROSS_SECTIONS_M2 = np.repeat([0.27, 0.27, 0.21, 0.07, 0.04, 0.03, 0.06, 0.04, 0.02], [1, 1, 1, 1, 2, 2, 2, 2, 2])
SIDEWAYS_M = np.array([0, 0, 0, 0] + 2 * [-0.2, 0.2] + 3 * [-0.12, 0.12])
HEIGHTS = np.repeat([0.55, 0.68, 0.80, 0.94, 0.72, 0.55, 0.42, 0.22, 0.05], [1, 1, 1, 1, 2, 2, 2, 2, 2])
TORSO, ARMS, HANDS, LEGS = slice(0, 4), slice(4, 6), slice(6, 8), slice(8, 14)
CHEST = 1
SIDE = np.array([-1, 1])

# The body's contribution is smooth over frequency: it is summed on a few knots and interpolated, which is exact to
# -60 dB for paths up to 120 ns long.
KNOTS_HZ = np.linspace(SUBCARRIERS_HZ[0], SUBCARRIERS_HZ[-1], 11)


def _phasors(frequency_hz, delays_s):
    return np.exp(-2j * np.pi * np.multiply.outer(frequency_hz, delays_s))


_DELAYS_S = np.linspace(0, 120e-9, 200)
INTERPOLATION = (
    _phasors(SUBCARRIERS_HZ, _DELAYS_S) @ np.linalg.pinv(_phasors(KNOTS_HZ, _DELAYS_S), rcond=1e-5)
).astype(np.complex64)


class Room:
    """Size, antennas and all that does not move; the same for every recording in the room.

    Attributes:
        size_m: length, width, height. transmitter_m: (3,). antennas_m: (3, 3), half a wavelength apart.
        sources_m, source_gains: (7, 3), (7,) of the transmitter and its first-order images.
        delays_s, gains: (3, paths) of the static channel, antenna by antenna; the first is the direct path.
        static: (3, 114) complex gain of the empty room. direct: (3, 114), the direct path alone.
        ripple_db: (3, 114) of the receiver's front end.
    """

    def __init__(self, rng):
        self.size_m = rng.uniform([5.5, 4.0, 2.6], [7.0, 5.5, 3.1])
        length, width, _ = self.size_m
        self.transmitter_m = np.array([0.6, width * rng.uniform(0.3, 0.7), rng.uniform(0.9, 1.3)])
        receiver = np.array([length - 0.6, width * rng.uniform(0.3, 0.7), rng.uniform(0.9, 1.3)])
        self.antennas_m = receiver + np.outer([-0.5, 0, 0.5], [0, WAVELENGTH_M, 0])

        # images of the transmitter: on every axis none, once in either wall, or once in both
        orders, images = [], []
        for bounces in product([0, 1, -1, 2, -2], repeat=3):
            order = np.abs(bounces).sum()
            if order <= 2:
                folded = {0: (0, 1), 1: (0, -1), -1: (2, -1), 2: (2, 1), -2: (-2, 1)}
                shift, sign = np.array([folded[bounce] for bounce in bounces]).T
                orders.append(order)
                images.append(shift * self.size_m + sign * self.transmitter_m)
        by_order = np.argsort(orders, kind="stable")
        images = np.array(images)[by_order]
        reflection = (-0.3) ** np.array(orders)[by_order] * rng.uniform(0.8, 1.2, len(orders))
        reflection[0] = 1
        self.sources_m, self.source_gains = images[:7], reflection[:7]

        distance = np.linalg.norm(images - self.antennas_m[:, None], axis=2)
        delays, gains = distance / SPEED_OF_LIGHT, reflection * WAVELENGTH_M / (4 * np.pi * distance)
        carriers_hz = CENTER_FREQUENCY_HZ + SUBCARRIERS_HZ
        self.direct = gains[:, :1] * _phasors(carriers_hz, delays[:, 0]).T
        tail_delays, tail_gains = self._diffuse_tail(rng, delays[1], np.abs(gains[1]) ** 2)
        self.delays_s = np.concatenate([delays, np.tile(tail_delays, (NUM_ANTENNAS, 1))], axis=1)
        self.gains = np.concatenate([gains, tail_gains], axis=1)
        self.static = np.stack([_phasors(carriers_hz, d) @ g for d, g in zip(self.delays_s, self.gains)])
        self.ripple_db = np.cumsum(rng.normal(0, 0.08, (NUM_ANTENNAS, 114)), axis=1)
        self.ripple_db += rng.normal(0, 0.5, (NUM_ANTENNAS, 1)) - self.ripple_db.mean(1, keepdims=True)

    def _diffuse_tail(self, rng, delays, powers, num_paths=60):
        """Paths after the direct one that bring the rms delay spread to 20 to 40 ns (3GPP TR 38.901, indoor office).

        They have equal mean powers and exponentially distributed delays, hence an exponential power profile, and
        arrive as plane waves from all directions.
        """
        share = rng.uniform(0.12, 0.18)
        target_s = rng.uniform(22e-9, 38e-9)
        fading = (rng.standard_normal(num_paths) + 1j * rng.standard_normal(num_paths)) / np.sqrt(2)
        tail_powers = np.abs(fading) ** 2
        fading *= np.sqrt(powers.sum() * share / (1 - share) / tail_powers.sum())
        weights = np.concatenate([powers, np.abs(fading) ** 2])
        # variance of fixed + scale * growing delays is a quadratic in the scale
        fixed = np.concatenate([delays, np.full(num_paths, delays[0])])
        growing = np.concatenate([np.zeros(len(delays)), rng.exponential(target_s, num_paths)])
        (a, b), (_, c) = np.cov([growing, fixed], aweights=weights, ddof=0)
        scale = (-b + np.sqrt(b**2 - a * (c - target_s**2))) / a
        sine = np.sin(rng.uniform(0, 2 * np.pi, num_paths)) * np.sqrt(rng.uniform(0.5, 1, num_paths))
        steering = np.exp(1j * np.pi * np.outer([-1, 0, 1], sine))
        return fixed[len(delays) :] + scale * growing[len(delays) :], steering * fading

    def delay_spread_s(self):
        """rms delay spread of the empty room at the middle antenna."""
        return rms_delay_spread_s(self.delays_s[1], np.abs(self.gains[1]) ** 2)

    def response(self, scatterers_m):
        """Complex gain (3, 114, time) with a body of scatterers (time, 14, 3), without noise."""
        # both are (time, source or antenna, scatterer), then with time last
        from_source = np.linalg.norm(scatterers_m[:, None] - self.sources_m[:, None], axis=3)
        to_antenna = np.linalg.norm(scatterers_m[:, None] - self.antennas_m[:, None], axis=3)
        from_source, to_antenna = from_source.transpose(1, 2, 0), to_antenna.transpose(1, 2, 0)
        outgoing = np.sqrt(CROSS_SECTIONS_M2)[:, None] * self.source_gains[:, None, None] * WAVELENGTH_M
        outgoing = outgoing / ((4 * np.pi) ** 1.5 * np.maximum(from_source, 0.3))
        amplitude = outgoing / np.maximum(to_antenna, 0.3)[:, None]  # antenna, source, scatterer, time
        delay_s = (from_source + to_antenna[:, None]) / SPEED_OF_LIGHT
        shape = (NUM_ANTENNAS, -1, len(scatterers_m))
        amplitude, delay_s = amplitude.reshape(shape).astype(np.float32), delay_s.reshape(shape)

        def phasor(frequency_hz):
            turns = frequency_hz * delay_s
            angle = (-2 * np.pi * (turns - np.round(turns))).astype(np.float32)
            return np.cos(angle) + 1j * np.sin(angle)

        term, step = amplitude * phasor(CENTER_FREQUENCY_HZ + KNOTS_HZ[0]), phasor(KNOTS_HZ[1] - KNOTS_HZ[0])
        knots = np.empty((NUM_ANTENNAS, len(KNOTS_HZ), len(scatterers_m)), np.complex64)
        for number in range(len(KNOTS_HZ)):
            knots[:, number] = term.sum(1)
            term *= step
        response = INTERPOLATION @ knots
        response += self.static[:, :, None].astype(np.complex64)
        return response + (self.direct[:, :, None] * (self._shadow(scatterers_m[:, CHEST]) - 1)).astype(np.complex64)

    def _shadow(self, chest_m):
        """Amplitude of the direct path behind the torso: down to 0.3 within its width and the first Fresnel zone."""
        receiver = self.antennas_m[1]
        length = np.linalg.norm(receiver - self.transmitter_m)
        direction = (receiver - self.transmitter_m) / length
        along = np.clip((chest_m - self.transmitter_m) @ direction, 0.2, length - 0.2)
        distance = np.linalg.norm(chest_m - self.transmitter_m - along[:, None] * direction, axis=1)
        fresnel_m = np.sqrt(WAVELENGTH_M * along * (length - along) / length)
        return 1 - 0.7 * np.exp(-((distance / (0.25 + fresnel_m)) ** 2))


def sway(rng, time, size, frequency_hz=(0.1, 0.5), num=3):
    """Slow smooth motion of standard deviation `size`."""
    frequency, phase = rng.uniform(*frequency_hz, num), rng.uniform(0, 2 * np.pi, num)
    return size * np.sqrt(2 / num) * np.sin(2 * np.pi * np.outer(time, frequency) + phase).sum(1)


def _track(rng, time, speed_m_s, floor_m, margin_m, turn_s):
    """Positions (time, 2) and heading (time,) of somebody who wanders at constant speed inside the walls.

    Where the path comes within `margin_m` of a wall it is reflected; that and the turn are rounded over `turn_s`.
    """
    step_s = time[1] - time[0]
    extra = round(turn_s / step_s)  # the smoothing below needs time before and after
    longer = time[0] + step_s * np.arange(-extra, len(time) + extra)
    heading = rng.uniform(0, 2 * np.pi) + sway(rng, longer, 0.5)
    heading = np.stack([np.cos(heading), np.sin(heading)], axis=1)
    free = floor_m - 2 * margin_m
    path = rng.uniform(0, free) + speed_m_s * step_s * np.cumsum(heading, axis=0)
    folded = path % (2 * free)  # reflection at the walls
    outgoing = np.where(folded < free, 1, -1)
    angle = np.unwrap(np.arctan2(*(outgoing * heading).T[::-1]))
    window = np.hanning(extra + 2)[1:-1] / np.hanning(extra + 2).sum()

    def smooth(values):
        return np.convolve(values, window, "same")[extra:-extra]

    position = margin_m + np.minimum(folded, 2 * free - folded)
    return np.stack([smooth(position[:, 0]), smooth(position[:, 1])], axis=1), smooth(angle)


def _punch(phase):
    """Arm out and back once a turn: 0 to 1."""
    return np.maximum(0, np.sin(phase)) ** 3


def body_motion(rng, activity, time, room_size_m):
    """Scatterers (time, 14, 3) in metres, in the room's axes, of one person who does `activity` at the given times (s).

    A pose is built in the body's axes (forward, left, up), then placed on the floor and turned to its heading.
    """
    height_m, phase = rng.uniform(1.6, 1.85), rng.uniform(0, 2 * np.pi)
    pose = np.zeros((len(time), len(HEIGHTS), 3))
    pose[..., 1], pose[..., 2] = SIDEWAYS_M, HEIGHTS * height_m
    forward, left, up = np.moveaxis(pose, 2, 0)
    # speed, nearest to the walls and time for a turn there
    tracks = {"walk": (0.7, 1.7, 0.7, 0.6), "run": (1.7, 3.2, 0.7, 0.6), "clean": (0.1, 0.45, 1.1, 1.5)}
    if activity in tracks:
        slow_m_s, fast_m_s, margin_m, turn_s = tracks[activity]
        position, heading = _track(rng, time, rng.uniform(slow_m_s, fast_m_s), room_size_m[:2], margin_m, turn_s)
    else:
        spot = rng.uniform(0.8, room_size_m[:2] - 0.8)
        position = spot + np.stack([sway(rng, time, 0.005), sway(rng, time, 0.005)], axis=1)
        heading = np.full(len(time), rng.uniform(0, 2 * np.pi))
        if activity == "fall":  # away from the walls
            across, along = (room_size_m[:2] / 2 - spot)[::-1]
            heading = np.full(len(time), np.arctan2(across, along) + rng.uniform(-0.7, 0.7))

    def turns(low_hz, high_hz):
        return (2 * np.pi * rng.uniform(low_hz, high_hz) * time + phase)[:, None]

    if activity in ("walk", "run"):
        stride = turns(0.75, 1.2) if activity == "walk" else turns(1.2, 1.7)
        reach_m, bob_m = ((0.30, 0.02) if activity == "walk" else (0.45, 0.05)) * rng.uniform(0.8, 1.2, 1)
        swing = reach_m * np.sin(stride) * SIDE
        forward[:, ARMS], forward[:, HANDS] = 0.5 * swing, swing
        forward[:, LEGS] = -1.1 * np.concatenate([0.35 * swing, 0.7 * swing, swing], axis=1)  # against the arms
        up += bob_m * np.sin(2 * stride)
    elif activity == "fall":
        begin_s, duration_s = rng.uniform(0.25, 0.6) * time[-1], rng.uniform(0.8, 1.2)
        progress = np.clip((time - begin_s) / duration_s, 0, 1)
        tilt = (0.47 * np.pi * progress**2 * (3 - 2 * progress))[:, None]
        forward[:], up[:] = up * np.sin(tilt), up * np.cos(tilt) + 0.1 * np.sin(tilt)
    elif activity == "box":
        rate = turns(0.8, 2.0)
        reach = 0.5 * rng.uniform(0.9, 1.1) * np.concatenate([_punch(rate), _punch(rate + np.pi)], axis=1)
        forward[:, HANDS], forward[:, ARMS] = 0.2 + reach, 0.1 + 0.5 * reach
        up[:, HANDS], up[:, ARMS] = 0.78 * height_m, 0.77 * height_m
    elif activity == "circle":
        turn, radius_m = turns(0.5, 1.4), rng.uniform(0.45, 0.62)
        arms = slice(0, rng.integers(1, 3))  # one arm or both
        for part, share in ((ARMS, 0.5), (HANDS, 1.0)):
            forward[:, part][:, arms] = share * radius_m * np.cos(turn)
            up[:, part][:, arms] = 0.8 * height_m + share * radius_m * np.sin(turn)
    elif activity == "clean":
        wipe = 0.4 * np.sin(turns(0.5, 0.9))
        forward[:, TORSO], up[:, TORSO] = [0.05, 0.2, 0.35, 0.5], height_m * np.array([0.50, 0.58, 0.65, 0.68])
        forward[:, HANDS], forward[:, ARMS] = 0.6 + wipe, 0.4 + 0.5 * wipe
        up[:, HANDS], up[:, ARMS] = 0.35 * height_m, 0.5 * height_m
    else:
        raise ValueError(f"expected activity among {', '.join(LABEL_NAMES)}; found {activity!r}")

    cosine, sine = np.cos(heading)[:, None], np.sin(heading)[:, None]
    return np.stack(
        [
            position[:, :1] + cosine * forward - sine * left,
            position[:, 1:] + sine * forward + cosine * left,
            np.maximum(up, 0.05),
        ],
        axis=2,
    )


def features():
    shape = NUM_ANTENNAS, len(SUBCARRIERS_HZ), NUM_PACKETS
    return schema.image_features(*shape, label_names=LABEL_NAMES, is_csi=True)


def plan(split_samples):
    """Rooms with their number of recordings. A room belongs to one split."""
    items = {}
    for split, count in split_samples.items():
        full, rest = divmod(count, ROWS_PER_ROOM)
        sizes = full * [ROWS_PER_ROOM] + [rest][: rest > 0]
        items[split] = list(enumerate(sizes))
    return items


def receive(rng, response, mean_power, snr_db, gain_db):
    """CSI amplitude as reported, in dB over one quantisation step.

    Args:
        response: (antennas, subcarriers, packets) complex gain.
        mean_power: of the empty room; the noise is `snr_db` below it.
        gain_db: from `mean_power` to the reported level; broadcast against `response`.

    Returns:
        float32 of the shape of `response`; 0 where I and Q round to nothing or to a single step.
    """
    noise = rng.standard_normal((*response.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    received = response + np.float32(np.sqrt(mean_power / 10 ** (snr_db / 10) / 2)) * noise
    received *= (10 ** (gain_db / 20) / np.sqrt(mean_power)).astype(np.float32)
    reported = np.clip(np.rint(received.view(np.float32)), -LARGEST_INTEGER, LARGEST_INTEGER)
    power = np.sum(reported.reshape(*response.shape, 2) ** 2, axis=-1)
    return 10 * np.log10(np.maximum(power, 1))


def rows(seed, split, item):
    """The recordings of one room: the activities in turn, each by another person."""
    room_number, num_rows = item
    room = Room(random_generator(seed, TASK, split, "room", room_number))
    mean_power = np.mean(np.abs(room.static) ** 2)
    time = np.arange(NUM_PACKETS) / PACKET_RATE_HZ
    for number in range(num_rows):
        rng = random_generator(seed, TASK, split, room_number, number)
        label = number % len(LABEL_NAMES)
        response = room.response(body_motion(rng, LABEL_NAMES[label], time, room.size_m))
        snr_db, level_db = rng.uniform(28, 38), LEVEL_DB + rng.normal(0, 0.5)
        # gain control: steps now and then, and its resolution from packet to packet
        steps = np.cumsum(rng.normal(0, 0.05, NUM_PACKETS) * (rng.random(NUM_PACKETS) < 0.05))
        gain_db = level_db + room.ripple_db[:, :, None] + np.round(steps, 1) + rng.normal(0, 0.08, NUM_PACKETS)
        group = f"{TASK}-{seed}-{split}-{room_number}"
        parameters = {
            "room_size_m": room.size_m.tolist(),
            "delay_spread_s": room.delay_spread_s(),
            "snr_db": snr_db,
            "level_db": level_db,
        }
        yield {
            "image": receive(rng, response, mean_power, snr_db, gain_db),
            "unit": "db",
            "label": label,
            "recording": f"{group}-{number}",
            "group": group,
            "sampling_rate_hz": PACKET_RATE_HZ,
            "center_frequency_hz": CENTER_FREQUENCY_HZ,
            "start": 0,
            "parameters": json.dumps(parameters),
            "source": f"processing.simulation.{TASK}",
        }
