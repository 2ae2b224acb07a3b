"""POWDER: small recordings with the JSON of the set read back; days, stations and files that disagree are refused."""

import json
import os
from collections import Counter

import numpy as np
import pytest
from datasets import load_dataset

from processing.powder import STATIONS, convert, main

NUM_SAMPLES = 5 * 512 + 100


def samples(number):
    """Sample t is t + number j: exact in float32, different in every recording."""
    return (np.arange(NUM_SAMPLES) + 1j * number).astype("<c8")


def metadata(station, day, **global_fields):
    """As the set writes it: objects without lists, numbers as text."""
    return {
        "global": {"core:datatype": "cf32", "core:sample_rate": "7690000", **global_fields},
        "captures": {"core:day": str(day), "core:center_frequency": "2685000000"},
        "annotations": {"core:sample_count": str(NUM_SAMPLES), "transmitter": {"core:location": station}},
    }


def name_of(number):
    """32 recordings: 4G and WiFi, 2 days, 4 stations, s1 and s2."""
    station, day, technology = STATIONS[number % 4], 1 + number // 4 % 2, ("4G", "WiFi")[number // 8 % 2]
    return f"{technology}_Day_{day}_{station}_s{1 + number // 16}"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "GlobecomPOWDER"
    folder.mkdir()
    for number in range(32):
        samples(number).tofile(folder / f"{name_of(number)}.bin")
        content = metadata(STATIONS[number % 4], 1 + number // 4 % 2)
        (folder / f"{name_of(number)}.json").write_text(json.dumps(content))
    return folder


def test_windows_labels_and_days(folder, tmp_path):
    assert convert(folder, tmp_path / "out", num_proc=2) == tmp_path / "out"
    parts = load_dataset(str(tmp_path / "out")).with_format("numpy")
    assert list(parts) == ["train", "validation", "test"]
    assert parts["train"].features["label"].names == list(STATIONS)
    assert parts["train"].features["iq"].shape == (1, 512, 2)
    groups = {split: set(part["group"]) for split, part in parts.items()}
    assert all("_Day_2_" in group for group in groups["test"]) and len(groups["test"]) == 16
    assert all("_Day_1_" in group for group in groups["train"] | groups["validation"])
    # A fifth of 16 recordings of day 1, not two of one station; no recording on both sides.
    assert len(groups["validation"]) == 3 and len(groups["train"]) == 13 and not groups["train"] & groups["validation"]
    assert max(Counter(group.split("_")[3] for group in groups["validation"]).values()) == 1
    numbers = {f"{name_of(number)}.bin": number for number in range(32)}
    starts = {name: [] for name in numbers}
    for part in parts.values():
        for row in part:
            number = numbers[row["recording"]]
            assert row["label"] == number % 4 and row["group"] == row["source"] == row["recording"]
            assert (row["sampling_rate_hz"], row["center_frequency_hz"]) == (7.69e6, 2.685e9)
            technology, _, day, _, number_of_set = name_of(number).split("_")
            expected = {"technology": technology, "day": int(day), "set": int(number_of_set[1:])}
            assert json.loads(row["parameters"]) == expected
            starts[row["recording"]].append(row["start"])
            values = samples(number)[row["start"] : row["start"] + 512]
            np.testing.assert_array_equal(row["iq"], np.stack([values.real, values.imag], -1)[None])
    assert set(map(tuple, starts.values())) == {(0, 512, 1024, 1536, 2048)}


def test_seeds_draw_other_validation_recordings(folder, tmp_path):
    drawn = set()
    for seed in range(4):
        convert(folder, tmp_path / f"{seed}", seed=seed, max_windows=1)
        drawn.add(frozenset(load_dataset(str(tmp_path / f"{seed}"), split="validation")["group"]))
    assert len(drawn) > 1


def test_max_windows_are_evenly_spread(folder, tmp_path):
    main(["--input", str(folder.parent), "--output", str(tmp_path / "out"), "--max_windows", "2"])
    rows = load_dataset(str(tmp_path / "out"), split="test")
    assert Counter(rows["start"]) == {512: 16, 1536: 16}
    with pytest.raises(ValueError, match="made by the same recipe"):
        convert(folder, tmp_path / "out", max_windows=3)
    for suffix in ("bin", "json"):
        convert(folder, tmp_path / "out", max_windows=2)  # nothing to do
        path = folder / f"4G_Day_1_bes_s1.{suffix}"
        before = path.stat()
        path.touch()
        with pytest.raises(ValueError, match="made by the same recipe"):
            convert(folder, tmp_path / "out", max_windows=2)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ValueError, match="expected max_windows >= 1, found 0"):
        convert(folder, tmp_path / "out", max_windows=0)


def test_paper_protocol_holds_out_windows_of_both_days(folder, tmp_path):
    convert(folder, tmp_path / "out", protocol="paper")
    parts = load_dataset(str(tmp_path / "out"))
    windows = {split: set(zip(part["recording"], part["start"])) for split, part in parts.items()}
    assert set(windows) == {"train", "validation"} and not windows["train"] & windows["validation"]
    assert sum(map(len, windows.values())) == 160
    assert 16 <= len(windows["validation"]) <= 48  # 32 expected
    leaking = {name for name, _ in windows["train"]} & {name for name, _ in windows["validation"]}
    assert len(leaking) > 10 and {name.split("_")[2] for name in leaking} == {"1", "2"}


@pytest.mark.parametrize("day", [1, 2])
def test_one_day_alone(folder, tmp_path, day):
    for path in folder.glob(f"*_Day_{day}_*"):
        path.unlink()
    with pytest.raises(ValueError, match=f"both days in .*GlobecomPOWDER.*, found day {3 - day} only"):
        convert(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["GlobecomPOWDER"]
    convert(folder, tmp_path / "out", protocol="paper")
    assert load_dataset(str(tmp_path / "out"), split="train").num_rows > 0


def test_station_of_the_second_day_only(folder, tmp_path):
    for path in folder.glob("*_Day_1_meb_*"):
        path.unlink()
    with pytest.raises(ValueError, match="stations of day 2 on day 1 too in .*, found no meb"):
        convert(folder, tmp_path / "out")


@pytest.mark.parametrize("datatype", ["cf32_le", "cf32_be", "CF32"])
def test_variants_of_cf32_and_lists_of_sections(folder, tmp_path, datatype):
    content = metadata("BES", 1, **{"core:datatype": datatype, "core:sample_rate": 5e6})
    content = {name: section if name == "global" else [section] for name, section in content.items()}
    del content["captures"][0]["core:center_frequency"]
    (folder / f"{name_of(0)}.json").write_text(json.dumps(content))
    samples(0).astype(">c8" if datatype.endswith("be") else "<c8").tofile(folder / f"{name_of(0)}.bin")
    convert(folder, tmp_path / "out", protocol="paper")
    rows = [row for part in load_dataset(str(tmp_path / "out")).values() for row in part]
    rows = sorted((row for row in rows if row["recording"] == f"{name_of(0)}.bin"), key=lambda row: row["start"])
    np.testing.assert_array_equal(np.concatenate([row["iq"] for row in rows], 1)[0, :, 0], np.arange(2560))
    assert {(row["label"], row["sampling_rate_hz"], row["center_frequency_hz"]) for row in rows} == {(0, 5e6, 0)}


@pytest.mark.parametrize(
    ("section", "fields", "match"),
    [
        ("global", {"core:datatype": "ci16_le"}, "expected core:datatype cf32, .*Day_1_bes_s1.json, found 'ci16_le'"),
        ("global", {"core:datatype": None}, "expected core:datatype cf32, .* found None"),
        ("global", {"core:sample_rate": None}, "core:sample_rate in .*bes_s1.json, found None"),
        ("global", {"core:sample_rate": "0"}, "expected core:sample_rate > 0 in .*bes_s1.json"),
        ("global", {"core:sample_rate": "fast"}, "core:sample_rate in .*bes_s1.json, found 'fast'"),
        ("global", {"core:sample_rate": float("nan")}, "core:sample_rate in .*bes_s1.json, found nan"),
        ("captures", {"core:center_frequency": "-1"}, "core:center_frequency in .*, found '-1'"),
        ("captures", {"core:day": "2"}, "station bes and day 1 in .*bes_s1.json, by its name; found bes and 2"),
        ("annotations", {"transmitter": {"core:location": "meb"}}, "station bes .*s1.json, by its name; found meb"),
        ("annotations", {"transmitter": {"core:location": "ustar"}}, "core:location bes, .* found 'ustar'"),
        ("annotations", {"transmitter": {}}, "core:location bes, .* found None"),
        ("annotations", {"transmitter": "bes"}, "one object 'transmitter' in .*bes_s1.json, found 'bes'"),
        ("annotations", {"core:sample_count": NUM_SAMPLES + 1}, "at least 2661 samples in .*bin, found 2660: trunc"),
    ],
)
def test_wrong_metadata_leaves_nothing_behind(folder, tmp_path, section, fields, match):
    content = metadata("bes", 1)
    content[section] |= fields
    (folder / "4G_Day_1_bes_s1.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=match):
        convert(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["GlobecomPOWDER"]


@pytest.mark.parametrize("content", ["", "[]", '{"global": {}}', '{"global":', "\xff", "[" * 100_000])
def test_json_that_is_none_of_the_set(folder, tmp_path, content):
    (folder / "4G_Day_1_bes_s1.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match="expected .*bes_s1.json"):
        convert(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (samples(0).tobytes()[:-1], "whole samples of 8 bytes .*bes_s1.bin, found 21279 bytes: truncated"),
        (samples(0).tobytes()[:-8], "at least 2660 samples in .*bes_s1.bin, found 2659: truncated"),
        (b"", "expected samples in .*bes_s1.bin, found an empty file"),
        (np.full(NUM_SAMPLES, np.nan, "c8").tobytes(), "finite values in .*bes_s1.bin, found NaN"),
    ],
)
def test_wrong_samples_leave_nothing_behind(folder, tmp_path, content, match):
    (folder / "4G_Day_1_bes_s1.bin").write_bytes(content)
    with pytest.raises(ValueError, match=match):
        convert(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["GlobecomPOWDER"]


def test_files_alone_short_or_of_another_name(folder, tmp_path):
    path = folder / "4G_Day_1_bes_s1.bin"
    content = metadata("bes", 1)
    del content["annotations"]["core:sample_count"]
    path.with_suffix(".json").write_text(json.dumps(content))
    path.write_bytes(samples(0)[:511].tobytes())
    with pytest.raises(ValueError, match="at least 512 samples in .*bes_s1.bin, found 511"):
        convert(folder, tmp_path / "out")
    path.rename(folder / "moved")
    with pytest.raises(ValueError, match="expected 4G_Day_1_bes_s1.bin beside .*json, found no such file"):
        convert(folder, tmp_path / "out")
    path.with_suffix(".json").unlink()
    (folder / "moved").rename(path)
    with pytest.raises(ValueError, match="expected 4G_Day_1_bes_s1.json beside .*bin, found no such file"):
        convert(folder, tmp_path / "out")
    path.rename(folder / "4G_Day_3_bes_s1.bin")
    with pytest.raises(ValueError, match="of bes, browning, honors, meb, found .*4G_Day_3_bes_s1.bin"):
        convert(folder, tmp_path / "out")
    with pytest.raises(ValueError, match="in .*nowhere, found none"):
        convert(tmp_path / "nowhere", tmp_path / "out")
