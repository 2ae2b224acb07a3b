"""Folders of small recordings -> data sets: windows, splits, errors, and nothing half-written."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import load_dataset
from scipy.io import wavfile

from processing.recording_folder import assign_splits, build_recording_folder, window_starts
from processing.wifi_csi import read_capture
from tests.measured_sets import export_csi_har, export_esp32_motion, export_ism433
from tests.processing.test_wifi_csi import RATE_HZ, esp32_file, random_csi, times

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def folder(tmp_path):
    """12 IQ recordings of 100 samples, two labels in turn; sample s of recording r is r + s j (in steps of int16)."""
    return make_folder(tmp_path / "in", [{"label": "ba"[i % 2]} for i in range(12)])


def make_folder(folder, rows, length=100):
    folder.mkdir()
    for i, row in enumerate(rows):
        row.setdefault("file_name", f"sub/{i:02d}.cs16")
        if row["file_name"].endswith(".cs16") and ".." not in row["file_name"]:
            (folder / row["file_name"]).parent.mkdir(exist_ok=True)
            np.stack([np.full(length, i), np.arange(length)], -1).astype("<i2").tofile(folder / row["file_name"])
    write_metadata(folder, rows)
    return folder


def write_metadata(folder, rows):
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)


def edit_metadata(folder, **columns):
    """Set columns, from a function of the row number."""
    table = pd.read_csv(folder / "metadata.csv")
    for name, value in columns.items():
        table[name] = [value(i) for i in range(len(table))]
    write_metadata(folder, table)


def rows_of(output):
    return [row for part in load_dataset(str(output)).values() for row in part]


@pytest.mark.filterwarnings("error")
def test_windows_have_exact_values_and_offsets(folder, tmp_path, capsys):
    edit_metadata(
        folder, sampling_rate_hz=lambda i: 1e6 + i, center_frequency_hz=lambda i: 433e6, gain=lambda i: i / 2,
        device=lambda i: f"{i:03d}" if i else None, note=lambda i: "x, y",
    )  # fmt: skip
    assert build_recording_folder(folder, tmp_path / "out", window_length=32, hop=20) == tmp_path / "out"
    parts = load_dataset(str(tmp_path / "out"))
    assert list(parts) == ["train", "validation", "test"]
    assert parts["train"].features["label"].names == ["a", "b"]
    assert parts["train"].features["iq"].shape == (1, 32, 2)
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 12 * 4
    for row in rows:
        i = int(row["recording"][4:6])
        assert (row["label"], row["group"], row["source"]) == ((i + 1) % 2, row["recording"], row["recording"])
        assert (row["sampling_rate_hz"], row["center_frequency_hz"]) == (1e6 + i, 433e6)
        parameters = {"gain": i / 2, "note": "x, y"} | ({"device": f"{i:03d}"} if i else {})
        assert json.loads(row["parameters"]) == parameters
        samples = row["start"] + np.arange(32)
        np.testing.assert_array_equal(row["iq"], np.stack([np.full(32, i), samples], -1)[None] / 32768)
    starts = Counter((row["recording"], row["start"]) for row in rows)
    assert starts == Counter((f"sub/{i:02d}.cs16", start) for i in range(12) for start in (0, 20, 40, 60))
    assert capsys.readouterr().out.splitlines()[-1].split() == ["windows", "36", "4", "8", "48"]


def make_stretches(folder, stretches, length=100):
    """One recording `long.cs16`, and by row (label, start, stop, split); sample s is s j."""
    rows = [dict(zip(("label", "start", "stop", "split"), row), file_name="long.cs16") for row in stretches]
    for row in rows:
        row["group"] = row["split"]  # by default the file, which may not be in two splits
    return make_folder(folder, rows, length)


STRETCHES = [("a", 0, 30, "train"), ("b", 30, 60, "train"), ("a", 60, 81, "test"), ("b", 90, 100, "test")]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # (label, first sample of the window); the third stretch holds two windows of ten and a sample more
        ({}, {("a", 0), ("a", 10), ("a", 20), ("b", 30), ("b", 40), ("b", 50), ("a", 60), ("a", 70), ("b", 90)}),
        # four samples around each, which are of the neighbours, too; at both ends moved inwards
        ({"context": 4}, {("a", 0), ("a", 6), ("a", 16), ("b", 26), ("b", 36), ("b", 46), ("a", 56), ("a", 66), ("b", 82)}),
        ({"hop": 20}, {("a", 0), ("a", 20), ("b", 30), ("b", 50), ("a", 60), ("b", 90)}),
    ],
)  # fmt: skip
def test_rows_may_be_stretches_of_one_recording(tmp_path, options, expected):
    folder = make_stretches(tmp_path / "in", STRETCHES)
    build_recording_folder(folder, tmp_path / "out", window_length=10, validation_fraction=0, **options)
    parts = load_dataset(str(tmp_path / "out"))
    length = 10 + 2 * options.get("context", 0)
    names, found = parts["train"].features["label"].names, set()
    for split, part in parts.items():
        for row in part:
            found.add((names[row["label"]], row["start"]))
            assert split == ("train" if row["start"] + options.get("context", 0) < 60 else "test")
            samples = row["start"] + np.arange(length)
            np.testing.assert_array_equal(np.array(row["iq"])[0, :, 1], (samples / 32768).astype(np.float32))
    assert found == expected and sum(map(len, parts.values())) == len(expected)
    edit_metadata(folder, group=lambda i: None)
    with pytest.raises(ValueError, match="expected a group in one split, found group 'long.cs16' in test, train"):
        build_recording_folder(folder, tmp_path / "again", window_length=10)


@pytest.mark.parametrize(
    ("stretches", "options", "message"),
    [
        ([("a", 10, 10, "train")], {}, "start and stop with start < stop"),
        ([("a", 10, 5, "train")], {}, "start and stop with start < stop"),
        ([("a", 10, 101, "train")], {}, "expected stop <= 100, the samples of long.cs16, found 101"),
        ([("a", -1, 5, "train")], {}, "expected start to be a number in range"),
        ([("a", 0.5, 5, "train")], {}, "expected start to be a number in range"),
        ([("a", 0, None, "train"), ("b", 2, 9, "train")], {}, "expected stop in all rows"),
        ([("a", 0, 9, "train"), ("b", 20, 29, "train")], {}, "2 of 2 stretches are shorter than 10"),
        ([("a", 0, 30, "train")], {"context": 46}, "1 of 1 stretches are shorter"),
        ([("a", 0, 30, "train")], {"context": -1}, "expected context >= 0, found -1"),
    ],
)
def test_stretches_that_cannot_be_are_refused(tmp_path, stretches, options, message):
    folder = make_stretches(tmp_path / "in", stretches)
    with pytest.raises(ValueError, match=message):
        build_recording_folder(folder, tmp_path / "out", window_length=10, **options)
    assert not (tmp_path / "out").exists()


def test_a_file_stands_in_one_row_unless_rows_are_stretches(tmp_path):
    folder = make_folder(
        tmp_path / "in", [{"label": "a", "file_name": "x.cs16"}, {"label": "b", "file_name": "x.cs16"}]
    )
    with pytest.raises(ValueError, match="every file once in .*, or columns start and stop, found again 'x.cs16'"):
        build_recording_folder(folder, tmp_path / "out", window_length=10)
    edit_metadata(folder, start=lambda i: 0)
    with pytest.raises(ValueError, match="expected columns start and stop with start < stop"):
        build_recording_folder(folder, tmp_path / "out", window_length=10)
    with pytest.raises(ValueError, match="expected window_length beside hop and context"):
        build_recording_folder(folder, tmp_path / "out", context=3)


def test_captures_of_csi_become_rows_with_the_numbers_of_their_tool(tmp_path):
    folder, tool = tmp_path / "in", {}
    folder.mkdir()
    for number in range(6):
        name = f"{number}.csv"
        (folder / name).write_bytes(esp32_file(random_csi(50, 64, 1, 1, 8, seed=number), times(50)))
        tool[name] = read_capture(folder / name, "esp32").amplitude
    rows = [
        {"file_name": name, "label": "ab"[i % 2], "split": ["train", "test"][i > 3]} for i, name in enumerate(tool)
    ]
    write_metadata(folder, rows)
    build_recording_folder(folder, tmp_path / "out", window_length=20, validation_fraction=0)
    found = rows_of(tmp_path / "out")
    assert len(found) == 6 * 2
    for row in found:
        np.testing.assert_array_equal(row["csi"], tool[row["recording"]][..., row["start"] : row["start"] + 20])
        assert row["sampling_rate_hz"] == pytest.approx(RATE_HZ)
    edit_metadata(folder, sampling_rate_hz=lambda i: 98.5)  # the clock of a chip is not the last word
    build_recording_folder(folder, tmp_path / "again", window_length=20, validation_fraction=0)
    assert {row["sampling_rate_hz"] for row in rows_of(tmp_path / "again")} == {98.5}


def test_arrays_are_csi_where_the_folder_says_so_and_complex_ones_become_amplitude(tmp_path):
    rng, values = np.random.default_rng(0), {}
    (tmp_path / "in").mkdir()
    for number in range(4):
        values[f"{number}.npy"] = rng.standard_normal((2, 3, 30)) + 1j * rng.standard_normal((2, 3, 30))
        np.save(tmp_path / "in" / f"{number}.npy", values[f"{number}.npy"])
    rows = [
        {"file_name": name, "label": "ab"[i % 2], "split": ["train", "test"][i > 1]} for i, name in enumerate(values)
    ]
    write_metadata(tmp_path / "in", rows)
    build_recording_folder(tmp_path / "in", tmp_path / "out", window_length=30, kind="csi", validation_fraction=0)
    for row in rows_of(tmp_path / "out"):
        assert row["unit"] == "linear"
        np.testing.assert_allclose(row["csi"], np.abs(values[row["recording"]]), rtol=1e-6)
    for name in values:
        np.save(tmp_path / "in" / name, np.abs(values[name]) - 3)
    edit_metadata(tmp_path / "in", unit=lambda i: "db")
    build_recording_folder(tmp_path / "in", tmp_path / "db", window_length=30, kind="csi", validation_fraction=0)
    assert {row["unit"] for row in rows_of(tmp_path / "db")} == {"db"}
    edit_metadata(tmp_path / "in", unit=lambda i: "dBm")
    with pytest.raises(ValueError, match="expected unit linear or db in .*, found 'dBm'"):
        build_recording_folder(tmp_path / "in", tmp_path / "no", window_length=30, kind="csi")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((100, 32, 32), [0, 32, 64]),
        ((96, 32, 32), [0, 32, 64]),
        ((95, 32, 32), [0, 32]),
        ((31, 32, 32), []),
        ((100, 10, 10, 5), [10, 30, 50, 70, 90]),
        ((100, 10, 10, 1), [50]),
        ((30, 10, 10, 4), [0, 10, 20]),
    ],
)
def test_window_starts(arguments, expected):
    assert window_starts(*arguments) == expected


def test_groups_stay_on_one_side_in_every_class(tmp_path):
    rows = [{"label": f"{i % 3}", "group": f"g{i // 2 % 20}", "file_name": f"{i}"} for i in range(120)]
    for seed in range(3):
        splits = assign_splits(rows, 0.2, 0.1, seed)
        of_group = {row["group"]: set() for row in rows}
        for row, split in zip(rows, splits, strict=True):
            of_group[row["group"]].add(split)
        assert all(len(group) == 1 for group in of_group.values())
        assert Counter(group.pop() for group in of_group.values()) == {"train": 14, "validation": 2, "test": 4}
        assert splits == assign_splits(rows, 0.2, 0.1, seed)
    assert assign_splits(rows, 0.2, 0.1, 0) != assign_splits(rows, 0.2, 0.1, 1)


def test_drawn_splits_are_stratified():
    rows = [{"label": "ab"[i >= 20], "file_name": f"{i}"} for i in range(30)]
    splits = assign_splits(rows, 0.2, 0.1, 0)
    counts = Counter((row["label"], split) for row, split in zip(rows, splits, strict=True))
    assert counts == {
        ("a", "train"): 14, ("a", "validation"): 2, ("a", "test"): 4,
        ("b", "train"): 7, ("b", "validation"): 1, ("b", "test"): 2,
    }  # fmt: skip
    # The only group of a class stays in train.
    rare = [{"label": "a" if i else "z", "file_name": f"{i}"} for i in range(9)] + [{"label": "b", "file_name": "x"}]
    for seed in range(5):
        splits = assign_splits(rare, 0.3, 0.2, seed)
        assert (splits[0], splits[-1], Counter(splits)["test"]) == ("train", "train", 3)


def test_named_splits_are_kept_and_validation_is_drawn_from_train(folder, tmp_path):
    edit_metadata(folder, split=lambda i: "test" if i < 2 else "train")
    build_recording_folder(folder, tmp_path / "out", window_length=50, validation_fraction=0.2)
    parts = load_dataset(str(tmp_path / "out"))
    assert set(parts["test"]["recording"]) == {"sub/00.cs16", "sub/01.cs16"}
    assert {name: len(set(part["recording"])) for name, part in parts.items()} == {
        "train": 8, "validation": 2, "test": 2
    }  # fmt: skip
    assert set(parts["validation"]["label"]) == {0, 1}
    edit_metadata(folder, split=lambda i: ["test", "test", "validation", "validation"][i] if i < 4 else "train")
    build_recording_folder(folder, tmp_path / "named", window_length=50)
    parts = load_dataset(str(tmp_path / "named"))
    assert set(parts["validation"]["recording"]) == {"sub/02.cs16", "sub/03.cs16"}


def test_positions(folder, tmp_path):
    table = pd.read_csv(folder / "metadata.csv").drop(columns="label")
    write_metadata(folder, table.assign(x_m=0.5, y_m=range(12), z_m=-2))
    build_recording_folder(folder, tmp_path / "out", window_length=100)
    for row in rows_of(tmp_path / "out"):
        assert row["position"] == [0.5, int(row["recording"][4:6]), -2] and "label" not in row
    write_metadata(folder, table.assign(x_m=0.5))
    with pytest.raises(ValueError, match="expected x_m and y_m together in .*metadata.csv"):
        build_recording_folder(folder, tmp_path / "out", window_length=100)


@pytest.mark.parametrize("window_length", [None, 4])
def test_images_whole_or_cut_along_time(tmp_path, window_length):
    (tmp_path / "in").mkdir()
    array = np.arange(2 * 3 * 10, dtype=np.float32).reshape(2, 3, 10)
    for i in range(6):
        np.save(tmp_path / "in" / f"{i}.npy", array + i)
    write_metadata(tmp_path / "in", [{"file_name": f"{i}.npy", "label": i % 2} for i in range(6)])
    build_recording_folder(tmp_path / "in", tmp_path / "out", window_length=window_length, kind="image")
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 6 * (2 if window_length else 1)
    for row in rows:
        stop = row["start"] + (window_length or 10)
        np.testing.assert_array_equal(row["image"], array[..., row["start"] : stop] + int(row["recording"][0]))
    with pytest.raises(ValueError, match="expected IQ as complex .* in .*0.npy, found float32"):
        build_recording_folder(tmp_path / "in", tmp_path / "iq", window_length=4, kind="iq")


def test_reader_options_come_from_metadata(tmp_path):
    (tmp_path / "in").mkdir()
    raw = np.arange(80, dtype=np.int8).reshape(20, 2, 2)
    rows = []
    for i in range(4):
        raw.tofile(tmp_path / "in" / f"{i}.bin")
        np.savez(tmp_path / "in" / f"{i}.npz", x=raw.transpose(1, 0, 2), other=raw)
        rows += [{"file_name": f"{i}.bin", "datatype": "ci8", "num_antennas": 2}, {"file_name": f"{i}.npz"}]
        rows[-1]["variable"] = "x"
    write_metadata(tmp_path / "in", rows)
    build_recording_folder(tmp_path / "in", tmp_path / "out", window_length=20)
    for row in rows_of(tmp_path / "out"):
        np.testing.assert_array_equal(row["iq"], raw.transpose(1, 0, 2) / 128)


def test_the_number_of_processes_changes_nothing_and_a_second_run_does_nothing(folder, tmp_path, monkeypatch):
    build_recording_folder(folder, tmp_path / "one", window_length=32, max_windows=2)
    build_recording_folder(folder, tmp_path / "two", window_length=32, max_windows=2, num_proc=2)
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "two")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").iterdir()}
    build_recording_folder(folder, tmp_path / "one", window_length=32, max_windows=2, num_proc=2)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "one").iterdir()} == stamps
    monkeypatch.chdir(tmp_path)
    build_recording_folder("in", "one", window_length=32, max_windows=2)  # the same by another name
    for change in ({"window_length": 16}, {"seed": 1}):
        with pytest.raises(ValueError, match="made by the same recipe"):
            build_recording_folder(folder, tmp_path / "one", **{"window_length": 32, "max_windows": 2, **change})
    (folder / "sub" / "00.cs16").touch()
    with pytest.raises(ValueError, match="made by the same recipe"):
        build_recording_folder(folder, tmp_path / "one", window_length=32, max_windows=2)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "one").iterdir()} == stamps


def test_short_recordings_are_left_out_with_a_warning(folder, tmp_path):
    for name in ("03.cs16", "07.cs16"):
        np.zeros((10, 2), "<i2").tofile(folder / "sub" / name)
    with pytest.warns(UserWarning, match="2 of 12 recordings are shorter than 64: 'sub/03.cs16', 'sub/07.cs16'"):
        build_recording_folder(folder, tmp_path / "out", window_length=64)
    assert len(rows_of(tmp_path / "out")) == 10


ERRORS = {
    "blank label": ({"label": lambda i: "a" if i else None}, "label in all rows of .* found blank for 'sub/00.cs16'"),
    "blank group": ({"group": lambda i: i if i else None}, "expected group in all rows"),
    "blank rate": ({"sampling_rate_hz": lambda i: 1e6 if i else None}, "same sampling rate .* unknown in sub/00.cs16"),
    "bad rate": ({"sampling_rate_hz": lambda i: "fast"}, "sampling_rate_hz to be a number in range .*'fast'"),
    "negative rate": ({"sampling_rate_hz": lambda i: -1}, "sampling_rate_hz to be a number in range .*'-1'"),
    "bad position": ({"x_m": lambda i: "inf", "y_m": lambda i: 0}, "x_m to be a number in range"),
    "half an antenna": ({"num_antennas": lambda i: 1.5}, "num_antennas to be a number in range"),
    "unknown split": ({"split": lambda i: "dev" if i else "train"}, "split train, validation, test in .* found 'dev'"),
    "group in two": ({"split": lambda i: ["train", "test"][i > 5], "group": lambda i: i % 7}, "'0' in test, train"),
    "one class": ({"label": lambda i: "a"}, "at least two labels in train, found 'a' only"),
    "unseen": ({"label": lambda i: "abz"[max(i - 9, 0)] if i else "b", "split": lambda i: ["train", "test"][i == 11]},
               "every label of test in train too, found no 'z' in train"),
    "no train": ({"split": lambda i: "test"}, "expected at least 2 groups .* found 0: fewer groups than splits"),
    "few groups": ({"group": lambda i: i % 2}, "3 groups to draw train, test, validation from, found 2: fewer"),
    "single groups": ({"label": lambda i: i}, "expected a label with two groups"),
    "outside": ({"file_name": lambda i: f"../{i}.npy"}, r"expected file names inside .* found '\.\./0\.npy'"),
    "absolute": ({"file_name": lambda i: f"/tmp/{i}.npy"}, "expected file names inside .* found '/tmp/0.npy'"),
    "backslash": ({"file_name": lambda i: f"sub\\{i}.npy"}, "expected file names inside .* with / between folders"),
    "drive": ({"file_name": lambda i: f"C:{i}.npy"}, "expected file names inside"),
    "missing file": ({"file_name": lambda i: f"{i}.npy"}, "the files that .*metadata.csv names, found no '0.npy'"),
    "twice": ({"file_name": lambda i: "sub/00.cs16" if i else "./sub//00.cs16"}, "every file once .* 'sub/00.cs16'"),
    "blank name": ({"file_name": lambda i: "sub/00.cs16" if i else None}, "expected a file_name in every row"),
    "datatype": ({"datatype": lambda i: "cu8"}, "expected datatype ci16_le for .*, found 'cu8'"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors_in_metadata_leave_nothing_behind(folder, tmp_path, name):
    columns, match = ERRORS[name]
    edit_metadata(folder, **columns)
    with pytest.raises(ValueError, match=match):
        build_recording_folder(folder, tmp_path / "out", window_length=32)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "expected window_length for IQ, found none"),
        ({"hop": 3}, "expected window_length beside hop"),
        ({"window_length": 0}, "expected window_length >= 1, found 0"),
        ({"window_length": 9, "max_windows": 0}, "expected max_windows >= 1"),
        ({"window_length": 9, "test_fraction": 0.9}, "with a sum < 1"),
        ({"window_length": 101}, "at least one window, found none: 12 of 12 recordings are shorter than 101"),
    ],
)
def test_errors_in_options(folder, tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        build_recording_folder(folder, tmp_path / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_errors_in_the_metadata_file(folder, tmp_path):
    contents = {
        b"name,label\na,b\n": "expected a column file_name in .*, found name, label",
        b"file_name,label\n": "expected a file_name in every row of .*, found 0 rows",
        b"": "expected a comma-separated table in",
        b"file_name,label\na,b\na,b,c,d\n": "expected a comma-separated table in",
        b"file_name\n\xff\xfe\n": "expected a comma-separated table in",
    }
    for content, match in contents.items():
        (folder / "metadata.csv").write_bytes(content)
        with pytest.raises(ValueError, match=match):
            build_recording_folder(folder, tmp_path / "out", window_length=32)
    (folder / "metadata.csv").unlink()
    with pytest.raises(ValueError, match="metadata.csv with a column file_name, found no such file"):
        build_recording_folder(folder, tmp_path / "out", window_length=32)


def test_errors_in_recordings(tmp_path):
    def refuse(match, arrays, **columns):
        folder = tmp_path / f"in{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for i, array in enumerate(arrays):
            np.save(folder / f"{i}.npy", array)
        write_metadata(folder, {"file_name": [f"{i}.npy" for i in range(len(arrays))], **columns})
        with pytest.raises(ValueError, match=match):
            build_recording_folder(folder, tmp_path / "out", window_length=4)
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))

    iq, image = np.ones((1, 8), complex), np.ones((1, 3, 8))
    late = np.concatenate([iq, iq * np.nan], axis=1)
    refuse("same kind in .* found iq in 0.npy and image in 3.npy", [iq, iq, iq, image])
    refuse(r"same shape in .* found \(1, 4\) in 0.npy and \(2, 4\) in 1.npy", [iq, iq.repeat(2, 0), iq])
    refuse(r"same shape in .* \(1, 3, 4\) in 0.npy and \(2, 3, 4\) in 2.npy", [image, image, image.repeat(2, 0)])
    refuse("finite values in .*2.npy, found NaN or infinity after sample 8", [iq, iq, late])


def test_sampling_rate_of_the_file_must_agree(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(4):
        wavfile.write(tmp_path / "in" / f"{i}.wav", 48000, np.zeros((9, 2), "i2"))
    rows = [{"file_name": f"{i}.wav", "sampling_rate_hz": 48000 if i else None} for i in range(4)]
    write_metadata(tmp_path / "in", rows)
    build_recording_folder(tmp_path / "in", tmp_path / "out", window_length=9)
    assert {row["sampling_rate_hz"] for row in rows_of(tmp_path / "out")} == {48000}
    rows[2]["sampling_rate_hz"] = 44100
    write_metadata(tmp_path / "in", rows)
    with pytest.raises(
        ValueError, match="sampling_rate_hz of 2.wav as in the file, 48000; found 44100 in metadata.csv"
    ):
        build_recording_folder(tmp_path / "in", tmp_path / "other", window_length=9)


def test_command_line(folder, tmp_path):
    command = f"-m processing.recording_folder --input {folder} --output {tmp_path / 'out'} --window_length 32"
    command = [sys.executable, *command.split(), "--num_proc", "2", "--kind", "iq", "--max_windows", "1"]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "train" in result.stdout
    assert len(rows_of(tmp_path / "out")) == 12


@pytest.mark.skipif(not DATA.is_dir(), reason="the measured sets are not beside the repository")
def test_measured_sets(tmp_path):
    exports = {
        "ism433_devices_dev": (export_ism433, {"window_length": 4096, "max_windows": 1}, (1, 4096, 2), 145),
        "csi_har_rpi4_amplitude": (export_csi_har, {}, (1, 52, 256), 420),
        "csi_esp32_motion": (export_esp32_motion, {"window_length": 200, "max_windows": 2}, (1, 64, 200), 40),
    }
    for name, (export, options, shape, num_rows) in exports.items():
        folder = export(DATA / f"{name}.npz", tmp_path / name)
        build_recording_folder(folder, tmp_path / f"{name}-out", **options)
        parts = load_dataset(str(tmp_path / f"{name}-out"))
        features = parts["train"].features
        assert (features["iq" if "iq" in features else "image"].shape, sum(parts.num_rows.values())) == (
            shape,
            num_rows,
        )
    with np.load(DATA / "ism433_devices_dev.npz") as archive:
        where = {recording.rsplit(".", 1)[0] + ".cu8": i for i, recording in enumerate(archive["recording"])}
        iq, split = archive["iq"], archive["split"]
    parts = load_dataset(str(tmp_path / "ism433_devices_dev-out"))
    for part, own in parts.items():
        for row in own.select(range(3)):
            i = where[row["recording"]]
            assert split[i] == ("test" if part == "test" else "train") and row["sampling_rate_hz"] == 250000
            stop = row["start"] + 4096
            np.testing.assert_array_equal(row["iq"], (iq[i, None, row["start"] : stop] - 127.5) / 128)
    parts = load_dataset(str(tmp_path / "csi_har_rpi4_amplitude-out"))
    users = {part: {json.loads(text)["user"] for text in own["parameters"]} for part, own in parts.items()}
    assert users == {"train": {1, 2}, "validation": {1, 2}, "test": {3}}
