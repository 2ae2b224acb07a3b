"""5G NR positioning: where is the user, given the channel from its sounding signal to the base stations around it.

`INDOOR` is a hall of 60 x 20 x 4 m with five base stations, `OUTDOOR` a court of 80 x 60 m between facades with four.
A seed fixes the scene: walls, point scatterers and round blockers. Specular paths are those of the image method (Allen
and Berkley 1979) up to three reflections, scattered ones follow the bistatic radar equation; so the channel is a
continuous function of the position, but for the edges of the blockers' shadows.

Every position is sounded three times, through the same channel at 10, 20 and 50 dB, as in the published sets; the
three rows are one group. A split by rows alone puts copies of a position on both sides: that is a leak, which the
paper's protocol has.

Sounding is that of band n78: 272 resource blocks of 12 x 30 kHz (3GPP TS 38.211, 6.4.1.4: C_SRS = 63, comb 2);
one least-squares estimate per block is kept, at 4 x 4 antennas half a wavelength apart.
"""

import json
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from processing import schema
from processing.simulation import impairments, random_generator

SPEED_OF_LIGHT_M_S = 299792458.0
CENTER_FREQUENCY_HZ = 3.5e9
WAVELENGTH_M = SPEED_OF_LIGHT_M_S / CENTER_FREQUENCY_HZ
SUBCARRIER_SPACING_HZ = 30e3
SAMPLING_RATE_HZ = 4096 * SUBCARRIER_SPACING_HZ
NUM_BLOCKS = 272
BLOCK_BANDWIDTH_HZ = 12 * SUBCARRIER_SPACING_HZ
ARRAY_SHAPE = (4, 4)  # across and upwards
NUM_ANTENNAS = ARRAY_SHAPE[0] * ARRAY_SHAPE[1]

SNRS_DB = (10, 20, 50)  # of the copies of a position, in mean power over a base station's antennas and blocks
# A user's timing is commanded in steps of 16 * 64 T_c / 2^mu (TS 38.213, 4.2) and may be off by one.
TIMING_STEP_S = 16 * 64 / (480e3 * 4096) / 2

MAX_REFLECTIONS = 3
REFLECTION_COEFFICIENT = -0.5
BLOCKING_LOSS_DB = 20.0
NUM_SCATTERERS = 60
NUM_BLOCKERS = 12
NEAREST_SCATTERER_M = 0.5  # where the radar equation of a point ends
CELL_M = 5.0  # of the checkerboard
USERS_PER_BATCH = 16


class Scene(NamedTuple):
    """What the paths of a seed go by."""

    scatterers_m: np.ndarray  # (NUM_SCATTERERS, 3)
    cross_sections_m2: np.ndarray  # (NUM_SCATTERERS,)
    blockers_m: np.ndarray  # (NUM_BLOCKERS, 2): axes of upright cylinders
    radii_m: np.ndarray  # (NUM_BLOCKERS,)


class Paths(NamedTuple):
    """Paths from U users to one base station; the direct one comes first."""

    lengths_m: np.ndarray  # (U, P)
    gains: np.ndarray  # (U, P) amplitude, real
    directions: np.ndarray  # (U, P, 3) unit vectors from the base station
    line_of_sight: np.ndarray  # (U,) bool


class Channel(NamedTuple):
    """What B base stations of A antennas see of U users, without noise."""

    response: np.ndarray  # (U, B, A, F) complex64, F resource blocks by rising frequency
    delay_spreads_s: np.ndarray  # (U, B) rms
    line_of_sight: np.ndarray  # (U, B) bool


class Sounding(NamedTuple):
    """Channel estimates at S = 3 SNRs with what they were made from."""

    positions_m: np.ndarray  # (U, 3)
    estimates: np.ndarray  # (U, S, B, A, F) complex64, in the order of `SNRS_DB`
    channel: Channel
    timing_errors_s: np.ndarray  # (U,)


def _checkerboard_split(positions_m):
    """Split of the cell that a position is in: white cells for training, rows of black ones in turn for the others."""
    column, row = (np.asarray(positions_m)[..., :2] // CELL_M).astype(int).T
    return np.where((column + row) % 2 == 0, "train", np.where(row % 2 == 0, "validation", "test"))


def _image_orders(has_ceiling):
    """(I, 3) signed number of reflections along each axis, fewest first; order -1 along z is the ground."""
    orders = np.indices((2 * MAX_REFLECTIONS + 1,) * 3).reshape(3, -1).T - MAX_REFLECTIONS
    if not has_ceiling:
        orders = orders[np.isin(orders[:, 2], (0, -1))]
    reflections = np.abs(orders).sum(1)
    return orders[np.argsort(reflections, kind="stable")][: np.sum(reflections <= MAX_REFLECTIONS)]


def _is_blocked(scene, positions_m, station_m):
    """(U,) whether the straight line to the station passes through a blocker, seen from above."""
    line_m = positions_m[:, :2] - station_m[:2]
    to_blockers_m = scene.blockers_m - station_m[:2]
    # nearest point of the line to each blocker's axis, as a share of its length
    share = (line_m @ to_blockers_m.T) / np.maximum(np.sum(line_m**2, axis=1, keepdims=True), 1e-9)
    nearest_m = np.clip(share, 0, 1)[..., None] * line_m[:, None]
    return np.any(np.linalg.norm(to_blockers_m - nearest_m, axis=2) < scene.radii_m, axis=1)


def _frequency_response(paths, steering):
    """(U, A, F) complex64 sum of all paths. `steering`: (U, P, A) phases at the antennas."""
    delays_s = paths.lengths_m / SPEED_OF_LIGHT_M_S
    lowest_hz = CENTER_FREQUENCY_HZ - (NUM_BLOCKS - 1) / 2 * BLOCK_BANDWIDTH_HZ

    def turn(frequencies_hz):
        cycles = delays_s[..., None] * frequencies_hz
        return np.exp(-2j * np.pi * (cycles - np.floor(cycles))).astype(np.complex64)

    # Coarse times fine steps: 33 exponentials per path instead of 272. Products of one coarse step at a time are small
    # enough for BLAS to leave them to one thread: several threads would get in each other's way here.
    coarse = turn(lowest_hz + BLOCK_BANDWIDTH_HZ * np.arange(0, NUM_BLOCKS, 16))
    fine = turn(BLOCK_BANDWIDTH_HZ * np.arange(16))
    over_antennas = (paths.gains[..., None] * steering).astype(np.complex64).swapaxes(1, 2)
    parts = (over_antennas[:, None] * coarse.swapaxes(1, 2)[:, :, None]) @ fine[:, None]
    return parts.swapaxes(1, 2).reshape(len(parts), NUM_ANTENNAS, NUM_BLOCKS)


@dataclass(frozen=True)
class PositioningTask:
    """A task of `processing.simulate`. One row is one user position at one SNR, a function of seed, split and number.

    Column `image`: magnitude of the channel estimates, (base stations, 16 antennas, 272 resource blocks), for every
    base station scaled linearly from its least to its greatest value to 0 ... 1, which the value range of the
    published sets points to; neither received power nor timing and phase errors remain. The level of all stations
    together does not tell the position; that of one station tells a little, as its magnitude is the more even the more
    its direct path dominates. Column `position`: x, y, z in metres.

    Option `regions="checkerboard"` takes the splits from different cells of 5 m, so that test cells are never seen
    in training, and a cell is a group; the default draws all splits from everywhere.
    """

    TASK: str
    size_m: tuple[float, float, float]
    base_stations_m: tuple[tuple[float, float, float], ...]
    has_ceiling: bool
    user_heights_m: tuple[float, float]
    scatterer_height_m: float
    cross_section_m2: float  # of the largest scatterer
    blocker_radii_m: tuple[float, float]

    IMAGE_VALUES: ClassVar[str] = (
        "magnitude of the frequency response, linear, scaled to [0, 1] for each base station: "
        "base stations x antennas x resource blocks"
    )
    DEFAULT_SAMPLES: ClassVar[int] = 4000
    SPLITS: ClassVar[dict] = {"train": 0.7, "validation": 0.1, "test": 0.2}
    OPTIONS: ClassVar[dict] = {"regions": (None, "checkerboard")}

    def features(self):
        return schema.image_features(
            len(self.base_stations_m), NUM_ANTENNAS, NUM_BLOCKS, position_axes=("x", "y", "z")
        )

    def plan(self, split_samples):
        """Batches of consecutive positions, as (number of the batch, rows to take from it)."""
        size = USERS_PER_BATCH * len(SNRS_DB)
        return {
            split: [(batch, min(size, count - batch * size)) for batch in range(-(-count // size))]
            for split, count in split_samples.items()
        }

    def scene(self, seed):
        rng = random_generator(seed, self.TASK, "scene")
        area_m = np.array(self.size_m[:2])
        scatterers_m = rng.uniform(0, 1, (NUM_SCATTERERS, 3)) * [*area_m, self.scatterer_height_m]
        cross_sections_m2 = rng.uniform(0, self.cross_section_m2, NUM_SCATTERERS)
        radii_m = rng.uniform(*self.blocker_radii_m, NUM_BLOCKERS)
        blockers_m = []
        while len(blockers_m) < NUM_BLOCKERS:  # none stands on or right before a base station
            center_m = rng.uniform(0, area_m)
            to_stations_m = np.linalg.norm(np.array(self.base_stations_m)[:, :2] - center_m, axis=1)
            if to_stations_m.min() > radii_m[len(blockers_m)] + 2:
                blockers_m.append(center_m)
        return Scene(scatterers_m, cross_sections_m2, np.array(blockers_m), radii_m)

    def array_axes(self, station):
        """Rows: where a base station's array faces (the middle of the scene), then its axes across and upwards."""
        middle_m = np.array([self.size_m[0] / 2, self.size_m[1] / 2, np.mean(self.user_heights_m)])
        facing = middle_m - self.base_stations_m[station]
        facing /= np.linalg.norm(facing)
        across = np.array([-facing[1], facing[0], 0.0])
        across = across / np.linalg.norm(across) if across.any() else np.array([0.0, 1.0, 0.0])
        return np.stack([facing, across, np.cross(facing, across)])

    def paths(self, scene, positions_m, station):
        """Image method and scatterers: `Paths` from (U, 3) positions to a base station, without antenna pattern."""
        station_m, size_m = np.array(self.base_stations_m[station]), np.array(self.size_m)
        orders = _image_orders(self.has_ceiling)
        mirrored = np.where(orders % 2 == 1, size_m - positions_m[:, None], positions_m[:, None])
        to_images_m = orders * size_m + mirrored - station_m
        lengths_m = np.linalg.norm(to_images_m, axis=2)
        gains = REFLECTION_COEFFICIENT ** np.abs(orders).sum(1) * WAVELENGTH_M / (4 * np.pi * lengths_m)
        line_of_sight = ~_is_blocked(scene, positions_m, station_m)
        gains[~line_of_sight, 0] *= 10 ** (-BLOCKING_LOSS_DB / 20)

        from_scatterers_m = scene.scatterers_m - station_m
        last_m = np.linalg.norm(from_scatterers_m, axis=1)
        first_m = np.linalg.norm(scene.scatterers_m - positions_m[:, None], axis=2)
        radar = WAVELENGTH_M * np.sqrt(scene.cross_sections_m2) / (4 * np.pi) ** 1.5
        scattered = radar / (np.maximum(first_m, NEAREST_SCATTERER_M) * np.maximum(last_m, NEAREST_SCATTERER_M))
        towards = np.broadcast_to(from_scatterers_m / last_m[:, None], (len(positions_m), NUM_SCATTERERS, 3))
        return Paths(
            np.concatenate([lengths_m, first_m + last_m], axis=1),
            np.concatenate([gains, scattered], axis=1),
            np.concatenate([to_images_m / lengths_m[..., None], towards], axis=1),
            line_of_sight,
        )

    def channel(self, scene, positions_m):
        """`Channel` of users at (U, 3) positions."""
        across, upwards = np.indices(ARRAY_SHAPE).reshape(2, -1)
        antennas_m = WAVELENGTH_M / 2 * np.stack([np.zeros(NUM_ANTENNAS), across, upwards], axis=1)
        responses, spreads_s, sights = [], [], []
        for station in range(len(self.base_stations_m)):
            paths = self.paths(scene, positions_m, station)
            local = paths.directions @ self.array_axes(station).T
            # an element's amplitude: full ahead, 20 dB less behind
            paths = paths._replace(gains=paths.gains * (0.1 + 0.9 * np.maximum(local[..., 0], 0)))
            steering = np.exp(2j * np.pi / WAVELENGTH_M * (local @ antennas_m.T))
            responses.append(_frequency_response(paths, steering))
            delays_s = paths.lengths_m / SPEED_OF_LIGHT_M_S
            spreads_s.append([impairments.rms_delay_spread_s(*user) for user in zip(delays_s, paths.gains**2)])
            sights.append(paths.line_of_sight)
        return Channel(np.stack(responses, axis=1), np.array(spreads_s).T, np.stack(sights, axis=1))

    def _position(self, rng, scene, split, regions):
        """A place outside the blockers, in a cell of the split where there are such."""
        low, high = [0, 0, self.user_heights_m[0]], [*self.size_m[:2], self.user_heights_m[1]]
        while True:
            position_m = rng.uniform(low, high)
            is_free = np.all(np.linalg.norm(scene.blockers_m - position_m[:2], axis=1) > scene.radii_m)
            if is_free and (regions is None or _checkerboard_split(position_m) == split):
                return position_m

    def sounding(self, seed, split, batch, regions=None):
        """`Sounding` of the users of one batch."""
        scene = self.scene(seed)
        numbers = range(batch * USERS_PER_BATCH, (batch + 1) * USERS_PER_BATCH)
        generators = [random_generator(seed, self.TASK, split, number) for number in numbers]
        positions_m = np.stack([self._position(rng, scene, split, regions) for rng in generators])
        channel = self.channel(scene, positions_m)
        timing_errors_s = np.array([rng.uniform(-TIMING_STEP_S, TIMING_STEP_S) for rng in generators])
        shape = channel.response.shape[1:]
        phases = np.stack([rng.uniform(0, 2 * np.pi, shape[0]) for rng in generators])
        noise = np.stack([rng.standard_normal((len(SNRS_DB), *shape, 2), np.float32) for rng in generators])
        noise = noise.view(np.complex64)[..., 0]

        power = np.mean(np.abs(channel.response) ** 2, axis=(2, 3))
        noise_amplitude = np.sqrt(
            power[:, None] / 2 / 10 ** (np.array(SNRS_DB)[:, None] / 10)
        )  # (U, S, B), of I and Q
        frequencies_hz = BLOCK_BANDWIDTH_HZ * (np.arange(NUM_BLOCKS) - (NUM_BLOCKS - 1) / 2)
        # all stations see one timing; their oscillators are not locked in phase
        turns = phases[..., None] - 2 * np.pi * timing_errors_s[:, None, None] * frequencies_hz
        estimates = noise * noise_amplitude.astype(np.float32)[..., None, None]
        estimates += (channel.response * np.exp(1j * turns).astype(np.complex64)[:, :, None])[:, None]
        return Sounding(positions_m, estimates, channel, timing_errors_s)

    def rows(self, seed, split, item, regions=None):
        """The first `count` rows of a batch: of every user one for each SNR.

        All are computed, so that no last bit depends on `count`.
        """
        batch, count = item
        sounding = self.sounding(seed, split, batch, regions)
        magnitude = np.abs(sounding.estimates)
        low, high = magnitude.min(axis=(3, 4), keepdims=True), magnitude.max(axis=(3, 4), keepdims=True)
        images = (magnitude - low) / (high - low)
        for row in range(count):
            user, copy = divmod(row, len(SNRS_DB))
            name = f"{self.TASK}-{seed}-{split}-{batch * USERS_PER_BATCH + user}"
            position_m = sounding.positions_m[user]
            cell = "-".join(str(int(axis // CELL_M)) for axis in position_m[:2])
            parameters = {
                "regions": regions,
                "line_of_sight": sounding.channel.line_of_sight[user].tolist(),
                "snr_db": SNRS_DB[copy],
                "rms_delay_spread_s": sounding.channel.delay_spreads_s[user].tolist(),
                "timing_error_s": sounding.timing_errors_s[user],
            }
            yield {
                "image": images[user, copy],
                "position": position_m.astype(np.float32),
                "recording": f"{name}-{SNRS_DB[copy]}dB",
                "group": name if regions is None else f"{self.TASK}-{seed}-cell-{cell}",
                "sampling_rate_hz": SAMPLING_RATE_HZ,
                "center_frequency_hz": CENTER_FREQUENCY_HZ,
                "start": 0,
                "parameters": json.dumps(parameters),
                "source": "processing.simulation.positioning",
            }


INDOOR = PositioningTask(
    TASK="pos-indoor",
    size_m=(60.0, 20.0, 4.0),
    base_stations_m=((1, 1, 3.5), (59, 1, 3.5), (1, 19, 3.5), (59, 19, 3.5), (30, 10, 3.8)),
    has_ceiling=True,
    user_heights_m=(0.5, 2.0),
    scatterer_height_m=4.0,
    cross_section_m2=2.0,
    blocker_radii_m=(0.4, 1.0),
)
OUTDOOR = PositioningTask(
    TASK="pos-outdoor",
    size_m=(80.0, 60.0, 40.0),
    base_stations_m=((2, 2, 10.0), (78, 2, 10.0), (2, 58, 10.0), (78, 58, 10.0)),
    has_ceiling=False,
    user_heights_m=(1.0, 2.0),
    scatterer_height_m=10.0,
    cross_section_m2=10.0,
    blocker_radii_m=(1.0, 2.5),
)
