"""NTU-Fi HAR: small trees of real files (342 x 2000) read back; what is not such a tree is refused."""

import json
import os
import shutil

import numpy as np
import pytest
import scipy.io
from datasets import load_dataset

from processing.ntu_fi_har import CLASSES, convert, main

NUM_TRAIN, NUM_TEST = 3, 1  # files of a class


def amplitude(number):
    """CSIamp with a value of its own at every antenna, subcarrier and packet of 24 files, exact in float32."""
    return (number * 684000 + np.arange(684000.0)).reshape(342, 2000)


def number_of(folder, label, file):
    """0 to 23 for the files of the tree."""
    return 6 * (3 if folder == "test_amp" else int(file[-5])) + CLASSES.index(label)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw") / "NTU-Fi_HAR"
    for folder, count in (("train_amp", NUM_TRAIN), ("test_amp", NUM_TEST)):
        for name in CLASSES:
            (root / folder / name).mkdir(parents=True)
            for file in (f"{name}{i}.mat" for i in range(count)):
                scipy.io.savemat(root / folder / name / file, {"CSIamp": amplitude(number_of(folder, name, file))})
    return root


@pytest.fixture
def root(files, tmp_path):
    """A tree to change: its files are links, to be replaced and not to be written into."""
    return shutil.copytree(files, tmp_path / "NTU-Fi_HAR", copy_function=os.link)


def test_values_labels_and_official_split(root, tmp_path):
    assert convert(root, tmp_path / "out", num_proc=2) == tmp_path / "out"
    parts = load_dataset(str(tmp_path / "out")).with_format("numpy")
    assert parts["train"].features["label"].names == list(CLASSES)
    assert parts["train"].features["image"].shape == (3, 114, 2000)
    names = {split: set(part["recording"]) for split, part in parts.items()}
    assert names["test"] == {f"test_amp/{name}/{name}0.mat" for name in CLASSES}
    # 18 train files, of which a tenth is for validation.
    assert len(names["validation"]) == 2 and len(names["train"]) == 16 and not names["train"] & names["validation"]
    assert all(name.startswith("train_amp/") for name in names["train"] | names["validation"])
    for part in parts.values():
        for row in part:
            folder, label, file = row["recording"].split("/")
            assert CLASSES[row["label"]] == label and row["group"] == row["source"] == row["recording"]
            assert row["sampling_rate_hz"] == row["center_frequency_hz"] == row["start"] == 0
            assert json.loads(row["parameters"]) == {"official_folder": folder, "decimation": 1}
            number = number_of(folder, label, file)
            assert row["image"].dtype == np.float32
            np.testing.assert_array_equal(row["image"], amplitude(number).reshape(3, 114, 2000))


def test_decimation_keeps_every_fourth_packet(root, tmp_path):
    main(["--input", str(root.parent), "--output", str(tmp_path / "out"), "--decimation", "4"])
    row = load_dataset(str(tmp_path / "out"), split="test").with_format("numpy")[0]
    assert row["image"].shape == (3, 114, 500)
    np.testing.assert_array_equal(np.diff(row["image"][0, 0]), 4)
    assert json.loads(row["parameters"])["decimation"] == 4
    with pytest.raises(ValueError, match="made by the same recipe"):
        convert(root, tmp_path / "out", decimation=2)
    os.utime(root / "train_amp" / "box" / "box0.mat", (0, 0))
    with pytest.raises(ValueError, match="made by the same recipe"):
        convert(root, tmp_path / "out", decimation=4)


def test_paper_protocol_mixes_the_official_folders(root, tmp_path):
    convert(root, tmp_path / "out", protocol="paper", seed=1)
    parts = load_dataset(str(tmp_path / "out"))
    assert set(parts) == {"train", "validation"}
    names = {split: set(part["recording"]) for split, part in parts.items()}
    assert len(names["train"]) + len(names["validation"]) == 24 and not names["train"] & names["validation"]
    assert 1 <= len(names["validation"]) <= 10
    assert {name.split("/")[0] for name in names["train"]} == {"train_amp", "test_amp"}


@pytest.mark.parametrize(
    ("variables", "match"),
    [
        ({"CSIamp": amplitude(0).T}, r"CSIamp of real .*\(342, 2000\) in .*box1.mat, found float64 \(1, 2000, 342\)"),
        ({"CSIamp": amplitude(0).astype("i2")}, "expected CSIamp of real floating-point .* found int16"),
        ({"CSIamp": amplitude(0) + 1j}, "expected CSIamp .*box1.mat, found complex128"),
        ({"CSIamp": np.where(amplitude(0) > 3e5, np.nan, 1.0)}, "finite values in .*box1.mat, found NaN"),
        ({"CSIphase": amplitude(0)}, "expected an array 'CSIamp' in .*box1.mat, found CSIphase"),
    ],
)
def test_wrong_files_leave_nothing_behind(root, tmp_path, variables, match):
    path = root / "train_amp" / "box" / "box1.mat"
    path.unlink()
    scipy.io.savemat(path, variables)
    with pytest.raises(ValueError, match=match):
        convert(root, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["NTU-Fi_HAR"]


def test_truncated_missing_and_mislabelled(root, tmp_path):
    path = root / "test_amp" / "walk" / "walk0.mat"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1000])
    with pytest.raises(ValueError, match="complete MATLAB file in .*walk0.mat"):
        convert(root, tmp_path / "out")
    path.unlink()
    with pytest.raises(ValueError, match="expected .mat files in .*walk, found none"):
        convert(root, tmp_path / "out")
    path.parent.rename(path.parent.with_name("jump"))
    with pytest.raises(
        ValueError, match="the folders box, .* in .*test_amp, found box, circle, clean, fall, jump, run"
    ):
        convert(root, tmp_path / "out")
    with pytest.raises(ValueError, match="in .*train_amp, found none"):
        convert(tmp_path / "nowhere", tmp_path / "out")
    for decimation in (0, 2001):
        with pytest.raises(ValueError, match=f"expected decimation of 1 to 2000, found {decimation}"):
            convert(root, tmp_path / "out", decimation=decimation)
    assert [path.name for path in tmp_path.iterdir()] == ["NTU-Fi_HAR"]
