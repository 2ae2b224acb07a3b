"""Annotated SigMF recordings -> windows that lie where the annotations are; and what is refused."""

import json

import numpy as np
import pytest
from datasets import load_dataset

from processing.sigmf_annotations import annotation_windows, convert, main
from tests.recording_files import write_sigmf

LENGTH = 1000


def note(start, count, label, **fields):
    entry = {"core:sample_start": start, "core:sample_count": count, "core:label": label, **fields}
    return {name: value for name, value in entry.items() if value is not None}


ANNOTATIONS = [
    note(100, 75, "wifi", **{"core:freq_lower_edge": 2.40e9, "core:freq_upper_edge": 2.42e9}),
    note(500, 10, "bluetooth"),
    note(995, 5, "bluetooth"),
]


def make_folder(folder, num_recordings=12, annotations=ANNOTATIONS, **fields):
    """Recording r, sample s: r + s j in steps of int16, each in a folder of its own."""
    for i in range(num_recordings):
        (folder / f"{i:02d}").mkdir(parents=True)
        samples = np.stack([np.full(LENGTH, i), np.arange(LENGTH)], -1)[:, None]
        write_sigmf(folder / f"{i:02d}", samples, "ci16_le", annotations=annotations,
                    **({"core:sample_rate": 1e6 + i} | fields))  # fmt: skip
    return folder


def edit_meta(path, change):
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


def rows_of(output):
    return [row for part in load_dataset(str(output)).values() for row in part]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((100, 75, 1000, 32, 32), [100, 132]),
        ((100, 75, 1000, 32, 20), [100, 120, 140]),
        ((100, 32, 1000, 32, 32), [100]),
        ((500, 10, 1000, 32, 32), [489]),
        ((500, 31, 1000, 32, 32), [499]),
        ((3, 10, 1000, 32, 32), [0]),
        ((995, 5, 1000, 32, 32), [968]),
        ((0, 20, 32, 32, 32), [0]),
        ((0, 20, 31, 32, 32), []),
    ],
)
def test_annotation_windows(arguments, expected):
    assert annotation_windows(*arguments) == expected


def test_windows_lie_inside_their_annotations_or_hold_them():
    rng = np.random.default_rng(0)
    for _ in range(500):
        window_length, hop = rng.integers(1, 50, 2)
        num_samples = rng.integers(window_length, 200)
        start = rng.integers(0, num_samples)
        length = rng.integers(1, num_samples - start + 1)
        starts = annotation_windows(start, length, num_samples, window_length, hop)
        assert min(starts) >= 0 and max(starts) + window_length <= num_samples
        if length >= window_length:
            assert starts[0] == start and set(np.diff(starts)) <= {hop}
            assert start + length - hop < starts[-1] + window_length <= start + length
        else:
            assert len(starts) == 1 and starts[0] <= start and start + length <= starts[0] + window_length


@pytest.mark.filterwarnings("error")
def test_values_labels_and_parameters(tmp_path):
    folder = make_folder(tmp_path / "in")
    path = convert(folder, tmp_path / "out", window_length=32, num_proc=2)
    parts = load_dataset(str(path))
    assert {name: len(part) for name, part in parts.items()} == {"train": 36, "validation": 4, "test": 8}
    assert parts["train"].features["iq"].shape == (1, 32, 2)
    assert parts["train"].features["label"].names == ["bluetooth", "wifi"]
    recordings = {name: set(part["recording"]) for name, part in parts.items()}
    assert sum(map(len, recordings.values())) == 12
    found = []
    for row in rows_of(path):
        i = int(row["recording"][:2])
        samples = row["start"] + np.arange(32)
        np.testing.assert_array_equal(row["iq"], np.stack([np.full(32, i), samples], -1)[None] / 32768)
        assert row["group"] == row["source"] == row["recording"] == f"{i:02d}/a.b.sigmf-meta"
        assert (row["sampling_rate_hz"], row["center_frequency_hz"]) == (1e6 + i, 915e6)
        found.append((i, row["start"], row["label"], row["parameters"]))
    edges = {"freq_lower_edge_hz": 2.40e9, "freq_upper_edge_hz": 2.42e9}
    expected = [
        (start, label, json.dumps({"annotation_start": annotation[0], "annotation_length": annotation[1], **more}))
        for start, label, annotation, more in [
            (100, 1, (100, 75), edges), (132, 1, (100, 75), edges), (489, 0, (500, 10), {}), (968, 0, (995, 5), {}),
        ]
    ]  # fmt: skip
    assert sorted(found) == [(i, *window) for i in range(12) for window in expected]
    assert rows_of(convert(folder, tmp_path / "one", window_length=32)) == rows_of(path)


def test_offset_antennas_and_retuning(tmp_path):
    """Samples are numbered from core:offset on; two channels take turns in the file."""
    for i in range(6):
        (tmp_path / f"in/{i}").mkdir(parents=True)
        samples = np.arange(100)[:, None, None] + np.array([[0, 0], [1000, 0]])
        captures = [{"core:sample_start": 5000, "core:frequency": f} for f in (1e9, 2e9)]
        write_sigmf(tmp_path / f"in/{i}", samples, "cf32_le", num_channels=2, captures=captures,
                    annotations=[note(5010, 20, "a"), note(5050, 20, "b")], **{"core:offset": 5000})  # fmt: skip
    for row in rows_of(convert(tmp_path / "in", tmp_path / "out", window_length=20)):
        assert row["start"] == (10, 50)[row["label"]]
        expected = row["start"] + np.arange(20)
        np.testing.assert_array_equal(np.array(row["iq"])[..., 0], [expected, expected + 1000])
        assert (row["sampling_rate_hz"], row["center_frequency_hz"]) == (0, 0)


def test_the_paper_protocol(tmp_path):
    folder = make_folder(tmp_path / "in", annotations=[note(0, 480, "a"), note(500, 480, "b")])
    rows = rows_of(convert(folder, tmp_path / "out", protocol="paper", window_length=32))
    assert len({(row["recording"], row["start"]) for row in rows}) == len(rows) == 12 * 30
    held_out = [row for row in rows if row["split"] == "validation"]
    assert {row["split"] for row in rows} == {"train", "validation"} and 40 < len(held_out) < 105
    assert len({row["recording"] for row in held_out}) > 6  # every recording is on both sides


def test_incomplete_annotations_and_short_recordings_are_named(tmp_path):
    incomplete = [note(0, 10, None), note(0, None, "wifi"), note(0, 0, "wifi"), note(0, 10, "")]
    folder = make_folder(tmp_path / "in", annotations=ANNOTATIONS + incomplete)
    (folder / "short").mkdir()
    write_sigmf(folder / "short", np.zeros((20, 1, 2)), "ci16_le", annotations=[note(0, 20, "new")])
    with pytest.warns(UserWarning) as warned:
        path = convert(folder, tmp_path / "out", window_length=32)
    messages = " ".join(str(warning.message) for warning in warned)
    assert f"left out 48 annotations of {folder} without label or length" in messages
    assert "left out 1 recordings shorter than 32: short/a.b.sigmf-meta (20 samples)" in messages
    assert len(rows_of(path)) == 48
    assert load_dataset(str(path))["train"].features["label"].names == ["bluetooth", "wifi"]


@pytest.mark.parametrize(
    ("annotations", "match"),
    [
        ([note(0, 50, 7)], "core:label as text .* in .*a.b.sigmf-meta, found 7, 0, 50 in annotation 0"),
        ([note(0, 50, "a"), note(0.5, 50, "a")], "whole core:sample_start.* found 'a', 0.5, 50 in annotation 1"),
        ([note(-5, 50, "a")], "annotations of samples from 0 on .* found start -5"),
        ([note(9, -5, "a")], "found start 9 and count -5 in annotation 0"),
        ([note(980, 50, "a")], "at least 1030 samples .* found 1000: truncated"),
        ([note(0, 50, "a", **{"core:freq_lower_edge": 2, "core:freq_upper_edge": 1})], "lower before upper, in .*"),
        ([note(0, 50, "a", **{"core:freq_lower_edge": "low"})], "edges of annotations as numbers"),
        ([note(0, 50, "a")], "at least two labels in train"),
        ([], "expected annotations with core:label .*, found 0 without"),
        ([note(0, None, "a")], "expected annotations with core:label .*, found 12 without"),
    ],
)
def test_bad_annotations_are_refused(tmp_path, annotations, match):
    folder = make_folder(tmp_path / "in", annotations=annotations)
    with pytest.raises(ValueError, match=match):
        convert(folder, tmp_path / "out", window_length=32)
    assert not (tmp_path / "out").exists()


def test_bad_recordings_are_refused(tmp_path):
    folder, output = make_folder(tmp_path / "in"), tmp_path / "out"
    meta, data = (folder / f"03/a.b.sigmf-{part}" for part in ("meta", "data"))
    whole_meta, whole_data = meta.read_bytes(), data.read_bytes()

    def refused(match, **options):
        with pytest.raises(ValueError, match=match):
            convert(folder, output, **({"window_length": 32} | options))
        assert not output.exists()
        meta.write_bytes(whole_meta)
        data.write_bytes(whole_data)

    refused("expected window_length >= 1, found 0", window_length=0)
    refused("found 0 without, and 12 recordings shorter than 1001", window_length=1001)
    data.write_bytes(whole_data[:-3])
    refused("whole samples of 4 bytes .*03/a.b.sigmf-data, found 3997 bytes: truncated")
    data.write_bytes(whole_data[:-4])
    refused("at least 1000 samples in .*03/a.b.sigmf-data .* found 999: truncated")
    meta.write_bytes(whole_meta[:-9])
    refused("expected SigMF metadata in .*03/a.b.sigmf-meta")
    edit_meta(meta, lambda content: content["global"].update({"core:datatype": "rf32_le"}))
    refused("expected a core:datatype .* found 'rf32_le'")
    edit_meta(meta, lambda content: content["global"].update({"core:datatype": "cf32_le"}))
    refused("at least 1000 samples in .*03/a.b.sigmf-data .* found 500: truncated")
    edit_meta(meta, lambda content: content["global"].update({"core:datatype": "cf32_le"}))
    data.write_bytes(np.full(2 * LENGTH, np.nan, "<f4").tobytes())
    refused("finite values in .*03/a.b.sigmf-meta, found NaN")
    edit_meta(meta, lambda content: content["global"].update({"core:num_channels": 2}))
    data.write_bytes(2 * whole_data)
    refused("same number of channels in all .* found 1 in 00/.* and 2 in 03/")
    # A seed by which none of the few windows is in the fifth.
    refused("expected windows for train and validation, found none of .* drawn for validation", protocol="paper", seed=218,
            window_length=999)  # fmt: skip
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected .sigmf-meta files in .*empty, found none"):
        convert(tmp_path / "empty", output)


def test_command_line(tmp_path, capsys):
    folder = make_folder(tmp_path / "in")
    main(["--input", str(folder), "--output", str(tmp_path / "out"), "--window_length", "16", "--hop", "8"])
    assert capsys.readouterr().out.split()[-1] == str(tmp_path / "out")
    assert len(rows_of(tmp_path / "out")) == 12 * (8 + 2)
    with pytest.raises(SystemExit):
        main(["--input", str(tmp_path), "--output", str(tmp_path / "other"), "--hop", "0"])
    assert "expected hop >= 1, found 0" in capsys.readouterr().err
