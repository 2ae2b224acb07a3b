"""Waterfall pictures: names, orientation, gray, resizing, groups; what is not a waterfall is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from processing.rfs_images import CLASSES, convert, label_of, main, read_waterfall, resize
from processing.simulation import rfs


def write(path, pixels):
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Ten waterfalls of each of three classes, gray level = 10 x number."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("wifi", "on-off-keying", "RS41-Radiosonde"):
        for i in range(10):
            write(folder / f"{name}_{i}.png", np.full((40, 24, 3), 10 * i))
    return folder


def test_a_class_of_every_name():
    assert len(set(CLASSES)) == 20
    for name in CLASSES:
        for spelling in (name, name.upper(), name.lower()):
            assert label_of(Path(f"{spelling}_2024_a-b_7.png")) == name
    for name in ("wifi.png", "wi-fi_1.png", "wifi2_1.png", "radiosonde_1.png", "keying_1.png", "_1.png"):
        with pytest.raises(ValueError, match=f"expected <label>_.* found '{name}'"):
            label_of(Path(name))


def test_the_longest_class_name_wins(monkeypatch):
    monkeypatch.setattr("processing.rfs_images.CLASSES", ("fm", "fm_stereo"))
    assert [label_of(Path(name)) for name in ("fm_1.png", "fm_stereo_1.png")] == ["fm", "fm_stereo"]


def test_time_runs_to_the_right_and_frequency_upwards(tmp_path):
    # A chirp in a waterfall of 3 instants and 5 frequencies: rises by one column at each row.
    pixels = np.zeros((3, 5), dtype=np.uint8)
    for time in range(3):
        pixels[time, time + 1] = 255
    write(tmp_path / "lora_1.png", pixels)
    image = read_waterfall(tmp_path / "lora_1.png")
    assert image.shape == (1, 5, 3)
    assert [int(np.argmax(image[0, :, time])) for time in range(3)] == [3, 2, 1]  # row 0 is the highest frequency
    write(tmp_path / "lora_2.png", np.eye(3)[None] * 255)  # one instant: red, green, blue
    np.testing.assert_allclose(read_waterfall(tmp_path / "lora_2.png")[0, :, 0], [0.114, 0.587, 0.299], atol=1e-6)


def test_simulated_set_has_its_highest_frequency_first_too():
    for repetition in range(4):
        row = next(rfs.rows(0, "train", rfs.LABEL_NAMES.index("vor") + 20 * repetition))
        carrier = json.loads(row["parameters"])["carrier_offset_hz"] / row["sampling_rate_hz"]
        strongest = np.argmax(np.mean(10 ** (row["image"][0] / 10), axis=1))
        assert strongest == pytest.approx(224 * (0.5 - carrier), abs=2)


def test_resizing_is_antialiased_and_stays_in_range():
    # White noise of seven times the size: without a filter its deviation would stay, an average of 7 x 7 is a seventh.
    noise = np.random.default_rng(0).random((1, 448, 448), dtype=np.float32)
    assert resize(noise, 64).std() < noise.std() / 4
    step = np.repeat(np.array([0, 1], np.float32), 20)[None, None].repeat(40, 1)
    assert resize(step, 224).min() == 0 and resize(step, 224).max() == 1
    np.testing.assert_allclose(resize(np.full((1, 30, 50), 0.25, np.float32), 224), 0.25, atol=1e-6)


def test_rows_and_splits(folder, tmp_path):
    convert(folder, tmp_path / "out", num_proc=2)
    parts = load_dataset(str(tmp_path / "out")).with_format("numpy")
    assert {split: len(part) for split, part in parts.items()} == {"train": 21, "validation": 3, "test": 6}
    assert parts["train"].features["label"].names == list(CLASSES)
    for split, part in parts.items():
        counts = np.bincount(part["label"])
        assert set(counts[counts > 0]) == {len(part) // 3}, split  # in proportion from every class
        for row in part:
            label, number = row["recording"].removesuffix(".png").split("_")
            assert CLASSES[row["label"]] == label and row["group"] == f"{label}_{number}".lower()
            assert row["image"].shape == (1, 224, 224) and row["image"].dtype == np.float32
            np.testing.assert_allclose(row["image"], 10 * int(number) / 255, atol=1e-6)
            assert row["sampling_rate_hz"] == row["center_frequency_hz"] == row["start"] == 0
            assert json.loads(row["parameters"]) == {"waterfall_height": 40, "waterfall_width": 24}


def test_parts_of_a_recording_stay_together(tmp_path):
    for i in range(12):
        for part in range(3):
            write(tmp_path / f"{'Wifi' if part else 'wifi'}_{i}_part{part}.png", np.zeros((4, 4)))
    convert(tmp_path, tmp_path / "out", image_size=8)
    parts = load_dataset(str(tmp_path / "out"))
    groups = [set(part["group"]) for part in parts.values()]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 12
    assert sum(map(len, parts.values())) == 36


def test_paper_protocol(folder, tmp_path):
    main(["--input", str(folder), "--output", str(tmp_path / "out"), "--protocol", "paper", "--image_size", "16"])
    parts = load_dataset(str(tmp_path / "out"))
    names = [set(parts[split]["recording"]) for split in ("train", "validation")]
    assert len(parts) == 2 and len(names[0] | names[1]) == 30 and not names[0] & names[1] and 1 <= len(names[1]) <= 12
    assert parts["train"].features["image"].shape == (1, 16, 16)


def test_refused(folder, tmp_path, capsys):
    def refuse(match, **options):
        with pytest.raises(ValueError, match=match):
            convert(folder, tmp_path / "out", **options)
        assert [path.name for path in tmp_path.iterdir()] == ["in"]

    refuse("expected image_size >= 1, found 0", image_size=0)
    path = folder / "wifi_0.png"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refuse("complete PNG picture in .*wifi_0.png")
    Image.new("RGB", (8, 8)).save(path, format="JPEG")
    refuse("complete PNG picture in .*wifi_0.png")
    path.write_bytes(b"")
    refuse("complete PNG picture in .*wifi_0.png")
    path.rename(folder / "zigbee_0.png")
    refuse("expected <label>_.* found 'zigbee_0.png'")
    for path in folder.iterdir():
        path.unlink()
    refuse("expected <label>_.*png in the folder .*in, found none")
    with pytest.raises(SystemExit):
        main(["--input", str(folder), "--output", str(tmp_path / "out")])
    assert "found none" in capsys.readouterr().err
