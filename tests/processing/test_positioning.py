"""Positioning: measured physics of the simulated sounding channels, and what of a position is kept in a row."""

import json

import numpy as np
import pytest
from datasets import load_dataset

from processing import simulate
from processing.simulation import positioning
from processing.simulation.positioning import INDOOR, OUTDOOR

SPEED_OF_LIGHT_M_S = 299792458.0
BANDWIDTH_HZ = 272 * 360e3
BIN_M = SPEED_OF_LIGHT_M_S / BANDWIDTH_HZ

both = pytest.mark.parametrize("task", [INDOOR, OUTDOOR], ids=lambda task: task.TASK)


def collect(task, split, samples, regions=None):
    rows = [row for item in task.plan({split: samples})[split] for row in task.rows(0, split, item, regions=regions)]
    drawn = [json.loads(row["parameters"]) for row in rows]
    return np.stack([row["image"] for row in rows]), np.stack([row["position"] for row in rows]), drawn


def random_positions(task, count):
    rng = np.random.default_rng(0)
    return np.column_stack([rng.uniform(0, task.size_m[:2], (count, 2)), rng.uniform(*task.user_heights_m, count)])


def distances_m(task, positions_m):
    return np.linalg.norm(positions_m[:, None] - np.array(task.base_stations_m), axis=2)


def free_space(task, monkeypatch):
    """The scene of seed 0 without anything that reflects, scatters or blocks."""
    monkeypatch.setattr(positioning, "REFLECTION_COEFFICIENT", 0.0)
    scene = task.scene(0)
    return scene._replace(cross_sections_m2=0 * scene.cross_sections_m2, radii_m=0 * scene.radii_m)


def delay_profiles(response, oversampling=8):
    """(U, B, oversampling * 272) power against delay, mean of the antennas."""
    profile = np.fft.ifft(response * np.hanning(272), oversampling * 272)
    return np.mean(np.abs(profile) ** 2, axis=2)


@both
def test_first_path_comes_at_the_distance_over_the_speed_of_light(task):
    positions_m = random_positions(task, 64)
    channel = task.channel(task.scene(0), positions_m)
    peaks_m = delay_profiles(channel.response).argmax(2) * BIN_M / 8
    errors_m = (peaks_m - distances_m(task, positions_m))[channel.line_of_sight]
    assert np.mean(np.abs(errors_m) < BIN_M / 2) > 0.9
    assert abs(np.median(errors_m)) < BIN_M / 5


@both
def test_free_space_loss_and_plane_wave(task, monkeypatch):
    scene, positions_m = free_space(task, monkeypatch), random_positions(task, 8)
    response = task.channel(scene, positions_m).response
    for station, place_m in enumerate(task.base_stations_m):
        to_user = (positions_m - place_m) / distances_m(task, positions_m)[:, station, None]
        facing, across, upwards = task.array_axes(station) @ to_user.T
        wavelength_m = SPEED_OF_LIGHT_M_S / 3.5e9
        expected = wavelength_m / (4 * np.pi * distances_m(task, positions_m)[:, station]) * (0.1 + 0.9 * facing)
        assert np.allclose(np.abs(response[:, station]), expected[:, None, None], rtol=1e-4, atol=0)
        step_across, step_up = np.indices((4, 4)).reshape(2, 16)
        wave = np.exp(1j * np.pi * (np.outer(across, step_across) + np.outer(upwards, step_up)))
        assert np.allclose(response[:, station] / response[:, station, :1], wave[..., None], atol=1e-3)


@both
def test_arrays_face_the_middle_with_orthogonal_axes(task):
    for station, place_m in enumerate(task.base_stations_m):
        axes = task.array_axes(station)
        assert axes @ axes.T == pytest.approx(np.eye(3), abs=1e-12)
        assert np.linalg.det(axes) == pytest.approx(1) and axes[2, 2] >= 0
        towards_m = np.array([task.size_m[0] / 2, task.size_m[1] / 2]) - place_m[:2]
        assert axes[0, :2] @ towards_m == pytest.approx(np.linalg.norm(axes[0, :2]) * np.linalg.norm(towards_m))


@both
def test_single_reflections_are_as_long_as_the_way_to_the_mirrored_user(task):
    user_m, scene = np.array([12.0, 7.0, 1.5]), task.scene(0)
    mirrored_m = np.tile(user_m, (6, 1))
    mirrored_m[[0, 1, 2], [0, 1, 2]] *= -1
    mirrored_m[[3, 4, 5], [0, 1, 2]] = 2 * np.array(task.size_m) - user_m
    walls_m = distances_m(task, mirrored_m if task.has_ceiling else mirrored_m[:5])
    for station in range(len(task.base_stations_m)):
        paths = task.paths(scene, user_m[None], station)
        single = paths.lengths_m[0, 1 : 1 + len(walls_m)]
        assert np.sort(single) == pytest.approx(np.sort(walls_m[:, station]))
        assert paths.gains[0, 1 : 1 + len(walls_m)] == pytest.approx(-0.5 * 0.0856550 / (4 * np.pi * single), rel=1e-4)


@both
def test_a_blocked_line_of_sight_loses_20_db_and_nothing_else_changes(task):
    scene, positions_m = task.scene(0), random_positions(task, 200)
    for station, place_m in enumerate(task.base_stations_m):
        blocked = task.paths(scene, positions_m, station)
        clear = task.paths(scene._replace(radii_m=0 * scene.radii_m), positions_m, station)
        # independently: some point of the line, seen from above, lies within a blocker
        line_m = np.linspace(place_m[:2], positions_m[:, :2], 2000)[:, :, None] - scene.blockers_m
        gaps_m = np.linalg.norm(line_m, axis=3).min(0) - scene.radii_m
        sure = np.all(np.abs(gaps_m) > 0.01, axis=1)
        assert np.array_equal(blocked.line_of_sight[sure], np.all(gaps_m > 0, axis=1)[sure])
        assert 0.4 < np.mean(blocked.line_of_sight) < 0.9 and clear.line_of_sight.all()
        loss_db = 20 * np.log10(clear.gains[:, 0] / blocked.gains[:, 0])
        assert loss_db == pytest.approx(np.where(blocked.line_of_sight, 0, 20))
        assert np.array_equal(blocked.gains[:, 1:], clear.gains[:, 1:])


@both
def test_correlation_decays_with_the_distance_between_users(task):
    scene, positions_m = task.scene(0), random_positions(task, 48)
    here = task.channel(scene, positions_m).response

    def correlation(step_m):
        there = task.channel(scene, positions_m + [step_m, 0, 0]).response
        products = np.abs(np.sum(here * np.conj(there), axis=(2, 3)))
        powers = np.sum(np.abs(here) ** 2, axis=(2, 3)) * np.sum(np.abs(there) ** 2, axis=(2, 3))
        return np.mean(products / np.sqrt(powers))

    near, half_meter, far = correlation(0.01), correlation(0.5), correlation(5.0)
    assert 0.9 < near < 0.99
    assert far < half_meter - 0.1 and half_meter < near - 0.15


@both
def test_delay_spreads(task):
    spreads_ns = 1e9 * task.channel(task.scene(0), random_positions(task, 300)).delay_spreads_s
    assert np.all((20 < np.median(spreads_ns, axis=0)) & (np.median(spreads_ns, axis=0) < 150))


@both
def test_stated_delay_spread_is_that_of_the_response(task):
    channel = task.sounding(0, "train", 0).channel
    delays = np.arange(8 * 272)

    def variance(profile):
        profile = np.where(profile > 1e-5 * profile.max(-1, keepdims=True), profile, 0)  # without the side lobes
        profile = np.roll(profile, 200, -1) / profile.sum(-1, keepdims=True)
        mean = np.sum(profile * delays, -1, keepdims=True)
        return np.sum(profile * (delays - mean) ** 2, -1)

    pulse = variance(np.abs(np.fft.ifft(np.hanning(272), 8 * 272)) ** 2)
    measured_s = np.sqrt(variance(delay_profiles(channel.response)) - pulse) / (8 * BANDWIDTH_HZ)
    assert np.median(measured_s / channel.delay_spreads_s) == pytest.approx(1, abs=0.25)


@both
def test_estimates_are_the_channel_with_a_timing_error_random_phases_and_noise(task):
    sounding = task.sounding(0, "train", 0)
    response = sounding.channel.response[:, None]  # the three copies have the same channel, timing and phase
    offsets_hz = 360e3 * (np.arange(272) - 135.5)
    timing = np.exp(2j * np.pi * sounding.timing_errors_s[:, None] * offsets_hz)
    aligned = sounding.estimates * timing[:, None, None, None]
    phasors = np.sum(aligned * np.conj(response), axis=(3, 4), keepdims=True)
    phasors /= np.abs(phasors)
    noise = aligned * np.conj(phasors) - response
    powers = [np.mean(np.abs(values) ** 2, axis=(3, 4)) for values in (response, noise)]
    snr_db = 10 * np.log10(powers[0] / powers[1])
    assert snr_db == pytest.approx(np.broadcast_to(np.array([[10], [20], [50]]), snr_db.shape), abs=0.3)
    assert np.abs(np.mean(phasors)) < 0.3 and np.abs(phasors - phasors[:, :1]).max() < 0.02
    assert 100e-9 < np.ptp(sounding.timing_errors_s) and np.abs(sounding.timing_errors_s).max() < 261e-9
    # noise of its own in every copy, at every station and antenna
    unit = noise / np.sqrt(powers[1])[..., None, None]
    assert np.abs(np.mean(unit[:, 0] * np.conj(unit[:, 1]))) < 0.01
    assert np.abs(np.mean(unit[..., :-1, :] * np.conj(unit[..., 1:, :]))) < 0.01


@both
def test_images_are_magnitudes_scaled_for_each_base_station(task):
    images, positions_m, drawn = collect(task, "train", 48)
    sounding = task.sounding(0, "train", 0)
    assert images.dtype == np.float32 and images.shape == (48, len(task.base_stations_m), 16, 272)
    assert np.all(images.min((2, 3)) == 0) and np.all(images.max((2, 3)) == 1)
    magnitude = np.abs(sounding.estimates)
    for image, level in zip(images.reshape(-1, 16 * 272), magnitude.reshape(-1, 16 * 272), strict=True):
        slope, offset = np.polyfit(level, image, 1)
        assert slope > 0 and np.abs(slope * level + offset - image).max() < 1e-5
    assert positions_m == pytest.approx(sounding.positions_m.repeat(3, axis=0))
    assert [row["line_of_sight"] for row in drawn] == sounding.channel.line_of_sight.repeat(3, axis=0).tolist()
    assert [row["snr_db"] for row in drawn] == 16 * [10, 20, 50]


@pytest.mark.parametrize("regions", [None, "checkerboard"])
def test_copies_of_a_position_are_one_group_and_recordings_of_their_own(regions):
    rows = [row for batch in range(2) for row in OUTDOOR.rows(0, "train", (batch, 48), regions=regions)]
    groups, recordings = ([row[name] for row in rows] for name in ("group", "recording"))
    assert groups == [group for group in groups[::3] for _ in range(3)]
    assert len(set(recordings)) == 96
    assert len(set(groups)) == (32 if regions is None else len({tuple(row["position"][:2] // 5) for row in rows}))


@both
def test_users_are_everywhere_but_inside_blockers(task):
    positions_m = np.concatenate([task.sounding(0, "train", batch).positions_m for batch in range(16)])
    low, high = positions_m.min(0), positions_m.max(0)
    assert np.all(low[:2] >= 0) and np.all(high <= task.size_m)
    assert np.all(high[:2] - low[:2] > 0.95 * np.array(task.size_m[:2]))
    assert task.user_heights_m[0] <= low[2] and high[2] <= task.user_heights_m[1]
    scene = task.scene(0)
    assert np.all(np.linalg.norm(positions_m[:, None, :2] - scene.blockers_m, axis=2) > scene.radii_m)


def test_checkerboard_takes_the_splits_from_different_cells():
    cells, groups = {}, {}
    for split in INDOOR.SPLITS:
        rows = [row for batch in range(10) for row in INDOOR.rows(0, split, (batch, 48), regions="checkerboard")]
        cells[split] = {tuple((row["position"][:2] // 5).astype(int)) for row in rows}
        groups[split] = {row["group"] for row in rows}
        assert len(groups[split]) == len(cells[split])
    assert [len(cells[split]) for split in INDOOR.SPLITS] == [24, 12, 12]
    assert len(set.union(*cells.values())) == len(set.union(*groups.values())) == 48
    # every neighbour of a cell is of another split
    assert all((column + 1, row) not in cells["train"] for column, row in cells["train"])


def spectra_and_positions(task, split, num_positions, regions=None):
    """Delay spectra of the squared magnitudes, and positions; both (positions, SNRs, ...)."""
    spectra, positions_m = [], []
    for batch in range(num_positions // 16):
        rows = list(task.rows(0, split, (batch, 48), regions=regions))
        power = np.stack([row["image"] for row in rows]) ** 2
        power -= np.mean(power, axis=3, keepdims=True)
        spectrum = np.mean(np.abs(np.fft.rfft(power * np.hanning(272)))[..., 1:80], axis=2)
        spectra.append((spectrum / np.linalg.norm(spectrum, axis=2, keepdims=True)).reshape(16, 3, -1))
        positions_m.append(np.stack([row["position"] for row in rows]).reshape(16, 3, -1))
    return np.concatenate(spectra), np.concatenate(positions_m)


def errors_of_nearest_m(train, train_m, test, test_m, count=3):
    nearest = np.argsort(-test @ train.T, axis=1)[:, :count]
    return np.linalg.norm(train_m[nearest].mean(1) - test_m, axis=1)


@pytest.mark.parametrize("regions", [None, "checkerboard"])
@both
def test_images_tell_the_position_and_noise_hides_it(task, regions):
    train, train_m = spectra_and_positions(task, "train", 480, regions)
    test, test_m = spectra_and_positions(task, "test", 96, regions)
    errors_m = [errors_of_nearest_m(train[:, 2], train_m[:, 2], test[:, snr], test_m[:, snr]).mean() for snr in (0, 2)]
    assert np.linalg.norm(train_m[:96, 0] - test_m[:, 0], axis=1).mean() > 18  # at random
    assert 0.5 < errors_m[1] < (2.5 if regions is None else 4)
    assert errors_m[1] < errors_m[0] < 9


@both
def test_copies_on_both_sides_of_a_split_are_a_leak(task):
    spectra, positions_m = spectra_and_positions(task, "train", 320)
    arrays = [spectra[:, 2], positions_m[:, 2], spectra[:, 1], positions_m[:, 1]]
    leaking_m = errors_of_nearest_m(*arrays, count=1)
    honest_m = errors_of_nearest_m(*(part[start:][:160] for part, start in zip(arrays, (0, 0, 160, 160))), count=1)
    assert np.mean(leaking_m == 0) > 0.8
    assert leaking_m.mean() < 0.3 * honest_m.mean()


@both
def test_a_row_depends_on_its_number_alone(task, monkeypatch):
    whole = list(task.rows(0, "test", (1, 48)))
    part = list(task.rows(0, "test", (1, 5)))
    names = [f"{number}-{snr_db}dB" for number in range(16, 18) for snr_db in (10, 20, 50)]
    assert [row["recording"] for row in part] == [f"{task.TASK}-0-test-{name}" for name in names[:5]]
    for one, other in zip(whole, part):
        assert np.array_equal(one.pop("image"), other.pop("image"))
        assert np.array_equal(one.pop("position"), other.pop("position"))
        assert one == other
    images = np.stack([row["image"] for row in task.rows(0, "test", (1, 48))])
    monkeypatch.setattr(positioning, "USERS_PER_BATCH", 4)
    smaller = np.stack([row["image"] for batch in range(4, 8) for row in task.rows(0, "test", (batch, 12))])
    assert np.allclose(smaller, images, atol=1e-5)
    for other in (task.rows(0, "train", (4, 1)), task.rows(1, "test", (4, 1))):
        assert not np.allclose(next(other)["image"], images[0], atol=0.01)


@pytest.mark.parametrize("count", [1, 48, 49, 100])
def test_plan_gives_the_rows_asked_for(count):
    items = INDOOR.plan({"train": count})["train"]
    assert [batch for batch, _ in items] == list(range(len(items)))
    assert sum(rows for _, rows in items) == count and all(0 < rows <= 48 for _, rows in items)


def test_is_a_task_of_the_simulation(tmp_path, monkeypatch):
    monkeypatch.setitem(simulate.TASKS, OUTDOOR.TASK, OUTDOOR)
    read = []
    for num_proc in (1, 2):
        folder = tmp_path / str(num_proc)
        simulate.simulate("pos-outdoor", folder, samples=60, num_proc=num_proc, regions="checkerboard")
        read.append(load_dataset(str(folder), cache_dir=str(tmp_path / "cache")))
    assert read[0].num_rows == {"train": 42, "validation": 6, "test": 12}
    for split, rows in read[0].items():
        assert rows.features == OUTDOOR.features() and rows.to_list() == read[1][split].to_list()
        expected = next(OUTDOOR.rows(0, split, (0, 1), regions="checkerboard"))
        assert np.array_equal(np.array(rows[0]["image"], np.float32), expected["image"])
    with pytest.raises(ValueError, match="expected regions to be one of.*found 'halves'"):
        simulate.simulate("pos-outdoor", tmp_path / "other", regions="halves")
