"""5G NR positioning: both orders of the axes, copies of a position, bounded reading; damaged files are refused."""

import json
from itertools import product

import h5py
import numpy as np
import pytest
from datasets import load_dataset

from processing import hdf5, nr_positioning
from processing.converting import position_groups
from processing.nr_positioning import convert, main

NUM_ROWS = 40


def contents(snr_db, num_rows=NUM_ROWS, num_stations=4):
    """Every value of its own; the positions are the same at every SNR, in another order."""
    shape = (num_rows, num_stations, 6, 5)
    features = np.arange(np.prod(shape), dtype=np.float64).reshape(shape) + 2.0**20 * snr_db / 10
    row = np.random.default_rng(snr_db).permutation(num_rows)
    return features, np.stack([row * 1.5, 60 - row, 0.25 * row], axis=1)


def write(path, features, positions, reverse=True, **options):
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("features", data=features.T if reverse else features, **options)
        file.create_dataset("labels/position", data=positions.T if reverse else positions)
    return path


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for snr_db, scenario in product((10, 20, 50), ("outdoor", "indoor")):
        arrays = contents(snr_db, num_stations=4 if scenario == "outdoor" else 5)
        write(folder / f"dataset_SNR{snr_db}_{scenario}.mat", *arrays)
    return folder


@pytest.mark.parametrize("reverse", [False, True])
def test_values_in_both_orders_of_the_axes(tmp_path, monkeypatch, reverse):
    monkeypatch.setattr(hdf5, "SLAB_BYTES", 4 * 6 * 5 * 8 * 7)  # 7 rows: the last slab is a shorter one
    for snr_db in (10, 20):
        write(tmp_path / f"dataset_SNR{snr_db}_outdoor.mat", *contents(snr_db), reverse)
    convert(tmp_path, tmp_path / "out", num_proc=2)
    parts = load_dataset(str(tmp_path / "out")).with_format("numpy")
    assert {split: len(part) for split, part in parts.items()} == {"train": 56, "validation": 8, "test": 16}
    seen = set()
    for part in parts.values():
        for row in part:
            snr_db = json.loads(row["parameters"])["snr_db"]
            assert json.loads(row["parameters"])["scenario"] == "outdoor"
            assert row["recording"] == row["source"] == f"dataset_SNR{snr_db}_outdoor.mat"
            features, positions = contents(snr_db)
            assert row["image"].dtype == row["position"].dtype == np.float32
            np.testing.assert_array_equal(row["image"], features[row["start"]])
            np.testing.assert_array_equal(row["position"], positions[row["start"]])
            seen.add((snr_db, int(row["start"])))
    assert seen == set(product((10, 20), range(NUM_ROWS)))


def test_copies_of_a_position_never_part(folder, tmp_path):
    convert(folder, tmp_path / "out", scenario="indoor", seed=3)
    parts = load_dataset(str(tmp_path / "out"))
    assert parts["train"].features["image"].shape == (5, 6, 5)
    groups = [set(part["group"]) for part in parts.values()]
    assert [len(group) for group in groups] == [28, 4, 8] and len(set().union(*groups)) == NUM_ROWS
    for part in parts.values():
        snrs = {}
        for row in part:
            snrs.setdefault(tuple(row["position"]), []).append(json.loads(row["parameters"])["snr_db"])
        assert all(sorted(values) == [10, 20, 50] for values in snrs.values())


def test_groups_are_millimetres():
    groups = position_groups(np.array([[1.0, 2.0, -3.0], [1.0004, 2.0, -2.9996], [1.0006, 2.0, -3.0]]))
    assert groups == ["1000 2000 -3000 mm", "1000 2000 -3000 mm", "1001 2000 -3000 mm"]
    assert position_groups(np.array([[-0.0, 0.0]])) == ["0 0 mm"]


def test_paper_protocol_parts_copies(folder, tmp_path):
    main(["--input", str(folder), "--output", str(tmp_path / "out"), "--protocol", "paper"])
    parts = load_dataset(str(tmp_path / "out"))
    assert set(parts) == {"train", "validation"} and sum(map(len, parts.values())) == 3 * NUM_ROWS
    assert 0.1 < len(parts["validation"]) / (3 * NUM_ROWS) < 0.3
    assert set(parts["train"]["group"]) & set(parts["validation"]["group"])


def test_one_file_and_the_recipe(folder, tmp_path):
    path = folder / "dataset_SNR20_outdoor.mat"
    convert(path, tmp_path / "out")
    assert sum(map(len, load_dataset(str(tmp_path / "out")).values())) == NUM_ROWS
    convert(path, tmp_path / "out", num_proc=2)
    with pytest.raises(ValueError, match="made by the same recipe"):
        convert(path, tmp_path / "out", seed=1)
    path.touch()
    with pytest.raises(ValueError, match="made by the same recipe"):
        convert(path, tmp_path / "out")
    with pytest.raises(ValueError, match="expected dataset_SNR<dB>_indoor.mat .*found dataset_SNR20_outdoor.mat"):
        convert(path, tmp_path / "other", scenario="indoor")


def test_memory_is_bounded_by_the_slab(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(hdf5, "SLAB_BYTES", 10 * 4 * 6 * 5 * 8)
    original = nr_positioning.read_float32
    monkeypatch.setattr(nr_positioning, "read_float32", lambda *a, **k: read.append(original(*a, **k)) or read[-1])
    write(tmp_path / "dataset_SNR10_outdoor.mat", *contents(10))
    convert(tmp_path, tmp_path / "out")
    assert max(len(values) for values in read if values.ndim == 4) == 10
    # Compressed chunks are read whole, so that none is unpacked twice.
    read.clear()
    write(tmp_path / "dataset_SNR20_outdoor.mat", *contents(20), chunks=(5, 6, 4, 15), compression="gzip")
    convert(tmp_path / "dataset_SNR20_outdoor.mat", tmp_path / "chunks")
    assert max(len(values) for values in read if values.ndim == 4) == 15


def nan(array, row):
    array = array.copy()
    array[(row, *[0] * (array.ndim - 1))] = np.nan
    return array


FEATURES, POSITIONS = contents(10)
WRONG = {
    "three stations": (
        FEATURES[:, :3],
        POSITIONS,
        r"C of 4 or 5 .* found \(5, 6, 3, 40\), \(3, 40\): neither order",
    ),
    "fewer labels": (FEATURES, POSITIONS[:-1], r"labels/position \(N, 3\), .* found .*\(3, 39\): neither order fit"),
    "two axes": (FEATURES, POSITIONS[:, :2], "neither order fit"),
    "three axes of features": (FEATURES[0], POSITIONS, "neither order fit"),
    "both orders": (np.zeros((3, 4, 5, 3)), np.zeros((3, 3)), "both orders fit"),
    "integers": (FEATURES.astype(int), POSITIONS, "floating-point numbers in features of .*SNR10.*, found int64"),
    "complex": (FEATURES * 1j, POSITIONS, "floating-point numbers in features of .*, found complex128"),
    "integer labels": (FEATURES, POSITIONS.astype(int), "floating-point numbers in labels/position .* found int64"),
    "NaN": (nan(FEATURES, 31), POSITIONS, "finite /features in .*SNR10_outdoor.mat, found NaN or infinity in row 31"),
    "overflow": (FEATURES * 1e40, POSITIONS, "finite /features"),
    "NaN label": (FEATURES, nan(POSITIONS, 7), "finite /labels/position in .*, found NaN or infinity in row 7"),
    "another shape": (FEATURES[..., :-1], POSITIONS, r"one \(C, H, W\) .* \(4, 6, 4\) in .*SNR10.* and \(4, 6, 5\)"),
    "empty": (FEATURES[:0], POSITIONS[:0], "neither order fit"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arrays_leave_nothing_behind(folder, tmp_path, name):
    features, positions, match = WRONG[name]
    write(folder / "dataset_SNR10_outdoor.mat", features, positions)
    with pytest.raises(ValueError, match=match):
        convert(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_wrong_files_leave_nothing_behind(folder, tmp_path, capsys):
    path = folder / "dataset_SNR50_outdoor.mat"
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:100], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="complete HDF5 file in .*SNR50_outdoor.mat"):
            convert(folder, tmp_path / "out")
    with h5py.File(path, "w") as file:
        file["features"], file["position"] = FEATURES, POSITIONS
    with pytest.raises(ValueError, match="labels/position of .*SNR50_outdoor.mat, found only features, position"):
        convert(folder, tmp_path / "out")
    with pytest.raises(ValueError, match="expected dataset_SNR<dB>_outdoor.mat in .*nowhere, found nothing"):
        convert(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match="expected scenario outdoor or indoor, found 'urban'"):
        convert(folder, tmp_path / "out", scenario="urban")
    with pytest.raises(SystemExit):
        main(["--input", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")])
    assert "found nothing" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
