"""The authors' HDF5 caches: IQ and image-like rows, classes and positions, groups; damaged caches are refused."""

import json

import h5py
import numpy as np
import pytest
from datasets import load_dataset

from processing import hdf5
from processing.wavesfm_cache import convert, main

NAMES = ["8PSK", "AM-DSB", "BPSK"]


def write(path, attributes=None, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file.attrs.update(attributes or {})
    return path


def iq_cache(path, num_rows=60, **changes):
    """Sorted by class, as the authors write it; every value of its own."""
    shape = (num_rows, 2, 3, 16)
    arrays = {
        "sample": np.arange(np.prod(shape), dtype=np.float32).reshape(shape),
        "label": np.arange(num_rows) * 3 // num_rows,
        "snr": (np.arange(num_rows) % 20).astype(np.int16),
        "modulation": np.array(NAMES, dtype=object)[np.arange(num_rows) * 3 // num_rows],
    }
    attributes = {
        "labels": json.dumps(NAMES),
        "mu": "[0.0, 0.0]",
        "std": json.dumps([0.0058, 0.0062]),
        "class_weights": np.array([0.5, 0.25, 0.25], np.float32),
        "version": "2016",
        "root": "/a/folder",
    }
    attributes |= changes.pop("attributes", {})
    arrays |= changes
    return write(path, attributes, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize("num_proc", [1, 2])
def test_iq_rows(tmp_path, monkeypatch, num_proc):
    monkeypatch.setattr(hdf5, "SLAB_BYTES", 2 * 3 * 16 * 4 * 7)  # 7 rows at a time
    path = iq_cache(tmp_path / "rml.h5")
    assert convert(path, tmp_path / "out", block_size=2, seed=1, num_proc=num_proc) == tmp_path / "out"
    parts = load_dataset(str(tmp_path / "out")).with_format("numpy")
    assert parts["train"].features["iq"].shape == (3, 16, 2)
    assert parts["train"].features["label"].names == NAMES
    sample = np.arange(60 * 2 * 3 * 16, dtype=np.float32).reshape(60, 2, 3, 16)
    rows, groups = [], []
    for part in parts.values():
        for row in part:
            i = int(row["start"])
            np.testing.assert_array_equal(row["iq"][..., 0], sample[i, 0])
            np.testing.assert_array_equal(row["iq"][..., 1], sample[i, 1])
            assert row["label"] == i // 20 and row["recording"] == row["source"] == "rml.h5"
            assert row["group"] == f"rows from {i // 2 * 2}"
            assert json.loads(row["parameters"]) == {"snr": i % 20, "modulation": NAMES[i // 20]}
            rows.append(i)
        groups.append(set(part["group"]))
    assert sorted(rows) == list(range(60))
    assert [len(group) for group in groups] == [21, 3, 6] and len(set().union(*groups)) == 30
    np.testing.assert_array_equal(
        np.bincount(parts["test"]["label"]), [4, 4, 4]
    )  # two of the ten blocks of each class
    attributes = json.loads((tmp_path / "out" / "generation.json").read_text())["attributes"]
    assert attributes == {
        "labels": NAMES, "mu": [0, 0], "std": [0.0058, 0.0062], "class_weights": [0.5, 0.25, 0.25], "version": 2016
    }  # fmt: skip


@pytest.mark.parametrize("name", ["image", "csi", "features"])
@pytest.mark.parametrize("group", ["group", "recording", "source_file"])
def test_image_rows_in_named_groups(tmp_path, name, group):
    image = np.random.default_rng(0).random((24, 3, 4, 5), dtype=np.float32)
    own = np.array([f"day {i % 6}" for i in range(24)], dtype=object)
    path = write(tmp_path / "c.h5", **{name: image, "label": np.arange(24) % 2, group: own})
    convert(path, tmp_path / "out")
    parts = load_dataset(str(tmp_path / "out")).with_format("numpy")
    assert parts["train"].features["label"].names == ["0", "1"]  # no attribute names them
    groups = [set(part["group"]) for part in parts.values()]
    assert sum(map(len, groups)) == 6 and set().union(*groups) == set(own)
    for part in parts.values():
        for row in part:
            i = int(row["start"])
            np.testing.assert_array_equal(row["image"], image[i])
            assert row["group"] == own[i] and row["label"] == i % 2
            assert row["recording"] == ("c.h5" if group == "group" else own[i])


@pytest.mark.parametrize("num_axes", [2, 3])
@pytest.mark.parametrize("scaled", [False, True])
def test_positions_are_metres_and_their_copies_stay_together(tmp_path, num_axes, scaled):
    low, high = np.array([[-1, 2, 0], [79, 62, 40.0]])[:, :num_axes]
    metres = low + np.random.default_rng(1).random((20, num_axes)).repeat(3, axis=0) * (high - low)
    label = (2 * (metres - low) / (high - low) - 1 if scaled else metres).astype(np.float32)
    box = {"coord_nominal_min": json.dumps(low.tolist()), "coord_nominal_max": json.dumps(high.tolist())}
    order = np.random.default_rng(2).permutation(60)
    files = np.array([f"{i}.mat" for i in range(60)], dtype=object)
    arrays = {"features": np.zeros((60, 4, 2, 2), np.float32), "label": label[order], "source_file": files}
    convert(write(tmp_path / "pos.h5", box if scaled else {}, **arrays), tmp_path / "out")
    parts = load_dataset(str(tmp_path / "out")).with_format("numpy")
    assert {split: len(part) for split, part in parts.items()} == {"train": 42, "validation": 6, "test": 12}
    for part in parts.values():
        assert len(set(part["group"])) == len(part) / 3
        for row in part:
            np.testing.assert_allclose(row["position"], metres[order][row["start"]], atol=2e-5)
            assert json.loads(row["parameters"]) == {"source_file": f"{row['start']}.mat"}


def test_paper_protocol_and_command_line(tmp_path):
    path = iq_cache(tmp_path / "rml.h5", num_rows=300)
    main(["--input", str(path), "--output", str(tmp_path / "out"), "--protocol", "paper", "--block_size", "50"])
    parts = load_dataset(str(tmp_path / "out"))
    assert set(parts) == {"train", "validation"} and sum(map(len, parts.values())) == 300
    assert 0.12 < len(parts["validation"]) / 300 < 0.28
    assert set(parts["train"]["group"]) == set(parts["validation"]["group"])  # its leak
    with pytest.raises(ValueError, match="made by the same recipe"):
        convert(path, tmp_path / "out", protocol="paper", block_size=51)


SAMPLE = np.zeros((60, 2, 3, 16), np.float32)
NAN = np.where(np.arange(60)[:, None, None, None] == 41, np.float32(np.nan), SAMPLE)
WRONG = {
    "two values": ({"image": SAMPLE}, "expected one of sample, .* found image .*sample"),
    "no label": ({"label": None}, "and label, in .*rml.h5, found modulation"),
    "no values": ({"sample": None}, "expected one of sample, image, csi, features, and label"),
    "complex": ({"sample": SAMPLE * 1j}, "floating-point numbers of four axes in sample .* complex64"),
    "integers": ({"sample": SAMPLE.astype("i2")}, "floating-point numbers of four axes in sample .* sample int16"),
    "three axes": ({"sample": SAMPLE[:, :, 0]}, r"of four axes in sample .* sample float32 \(60, 2, 16\)"),
    "empty": ({"sample": SAMPLE[:0]}, r"of four axes in sample .* sample float32 \(0, 2, 3, 16\)"),
    "I only": ({"sample": SAMPLE[:, :1]}, r"expected sample \(N, 2, A, T\) in .* found .*\(60, 1, 3, 16\)"),
    "fewer labels": ({"label": np.zeros(59, int)}, r"label of integers \(N,\) .* label int64 \(59,\)"),
    "float classes": ({"label": np.zeros(60)}, r"label of integers \(N,\) .* label float64 \(60,\)"),
    "text classes": ({"label": np.array(["a"] * 60, object)}, r"label of integers \(N,\) or coordinates"),
    "four coordinates": ({"label": np.zeros((60, 4))}, r"coordinates \(N, 2 or 3\) in .* label float64 \(60, 4\)"),
    "unknown class": ({"label": np.arange(60) // 15}, r"label of 0 to 2 \(3 classes\) in .*, found 0 to 3"),
    "negative class": ({"label": np.arange(60) // 30 - 1}, r"label of 0 to 2 \(3 classes\) in .*, found -1 to 0"),
    "no names": ({"attributes": {"labels": "8PSK"}}, "list of different class names .*labels of .*, found 8PSK"),
    "same names": ({"attributes": {"labels": '["a", "a", "b"]'}}, "list of different class names"),
    "NaN": ({"sample": NAN}, "finite /sample in .*rml.h5, found NaN or infinity in row 41"),
    "NaN position": ({"label": np.full((60, 2), np.nan)}, "finite /label in .*rml.h5, found NaN"),
    "NaN beside": ({"time": np.full(60, np.nan)}, "finite /time in .*rml.h5, found NaN"),
    "flat box": (
        {"label": np.zeros((60, 2)), "attributes": {"coord_nominal_min": "[0, 0]", "coord_nominal_max": "[1, 0]"}},
        "coord_nominal_min below coord_nominal_max, 2 numbers each",
    ),
    "half a box": ({"label": np.zeros((60, 2)), "attributes": {"coord_nominal_max": "[1, 1]"}}, r"None, \[1, 1\]"),
    "one group": ({}, "two groups to hold one out"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_caches_leave_nothing_behind(tmp_path, name):
    changes, match = WRONG[name]
    path = iq_cache(tmp_path / "rml.h5", **changes)
    with pytest.raises(ValueError, match=match):
        convert(path, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["rml.h5"]


def test_damaged_and_missing_files(tmp_path, capsys):
    path = iq_cache(tmp_path / "rml.h5")
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"not HDF5"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="complete HDF5 file in .*rml.h5"):
            convert(path, tmp_path / "out")
    with pytest.raises(ValueError, match="expected one HDF5 cache as input, found no file"):
        convert(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="expected block_size >= 1, found 0"):
        convert(path, tmp_path / "out", block_size=0)
    with pytest.raises(SystemExit):
        main(["--input", str(path), "--output", str(tmp_path / "out")])
    assert "complete HDF5 file" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["rml.h5"]
