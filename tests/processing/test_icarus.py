"""ICARUS: small recordings of the three sample types with their csv read back; what contradicts itself is refused."""

import json
import os
from collections import Counter

import numpy as np
import pytest
from datasets import load_dataset

from processing.icarus import LABELS, convert, main

NUM_SAMPLES = 5001  # odd: the crop starts at 452
TYPES = {"f4": 1, "i2": 32768, "i1": 128}  # sample type -> full scale


def components(number, kind):
    """(T, 2): I counts, Q is `number`; they fit in every sample type."""
    return np.stack([np.arange(NUM_SAMPLES) % 100 - 50, np.full(NUM_SAMPLES, number)], -1).astype(f"<{kind}")


def write_csv(path, **row):
    path.write_text(f"{','.join(row)}\n{','.join(map(str, row.values()))}\n")


@pytest.fixture
def root(tmp_path):
    """60 recordings, 30 of 5 MHz and 30 of 10 MHz: 20 of every class; one in three of each sample type."""
    root = tmp_path / "POWDER_Dataset"
    for number in range(60):
        bandwidth, label, kind = (5, 10)[number % 2], number // 2 % 3, list(TYPES)[number // 6 % 3]
        batch = root / f"Batch1_{bandwidth}MHz"
        for name in ("IQ", "Metadata"):
            (batch / name).mkdir(parents=True, exist_ok=True)
        stem = f"{'Combined_LTE_DSSS' if label else 'Only_LTE'}_frame_{number}"
        components(number, kind).tofile(batch / "IQ" / (stem if number % 4 else f"{stem}.bin"))
        row = {"Signal_Type": "LTE_DSSS" if label else "LTE", "Sampling_Rate": 11.52e6}
        if label:
            row |= {"DSSS_Mod": 2**label, "LTE_DSSS_SIR_dB": -10}
        # The duration is rounded: 4999.1 samples.
        row |= {"No_of_Samples": NUM_SAMPLES} if number % 5 else {"Frameduration": 433.95e-6}
        write_csv(batch / "Metadata" / f"{stem}.csv", **row)
    return root


@pytest.fixture
def one(root):
    """csv and recording of one float32 LTE_DSSS recording."""
    stem = "Combined_LTE_DSSS_frame_2"
    return root / "Batch1_5MHz" / "Metadata" / f"{stem}.csv", root / "Batch1_5MHz" / "IQ" / stem


def test_crops_levels_and_labels(root, tmp_path):
    assert convert(root, tmp_path / "out", num_proc=2) == tmp_path / "out"
    parts = load_dataset(str(tmp_path / "out")).with_format("numpy")
    assert parts["train"].features["label"].names == list(LABELS)
    assert parts["train"].features["iq"].shape == (1, 4096, 2)
    assert {split: Counter(map(int, part["label"])) for split, part in parts.items()} == {
        "train": {0: 14, 1: 14, 2: 14}, "validation": {0: 2, 1: 2, 2: 2}, "test": {0: 4, 1: 4, 2: 4}
    }  # fmt: skip
    seen = set()
    for part in parts.values():
        for row in part:
            number = int(row["recording"].removesuffix(".bin").split("_")[-1])
            seen.add(number)
            kind = list(TYPES)[number // 6 % 3]
            assert row["recording"].startswith(f"Batch1_{(5, 10)[number % 2]}MHz/IQ/")
            assert row["label"] == number // 2 % 3 and row["group"] == row["source"] == row["recording"]
            assert (row["sampling_rate_hz"], row["center_frequency_hz"], row["start"]) == (11.52e6, 0, 452)
            parameters = json.loads(row["parameters"])
            assert parameters["lte_bandwidth_hz"] == (5e6, 10e6)[number % 2]
            assert parameters.get("LTE_DSSS_SIR_dB") == ("-10" if row["label"] else None)
            expected = components(number, kind)[452 : 452 + 4096].astype(np.float32) / TYPES[kind]
            np.testing.assert_array_equal(row["iq"][0], expected)
    assert seen == set(range(60))


def test_paper_protocol_and_command_line(root, tmp_path):
    main(["--input", str(root), "--output", str(tmp_path / "out"), "--protocol", "paper"])
    parts = load_dataset(str(tmp_path / "out"))
    names = {split: set(part["recording"]) for split, part in parts.items()}
    assert set(names) == {"train", "validation"} and not names["train"] & names["validation"]
    assert sum(map(len, names.values())) == 60 and 4 <= len(names["validation"]) <= 22  # 12 expected
    with pytest.raises(ValueError, match="made by the same recipe"):
        convert(root, tmp_path / "out", seed=1, protocol="paper")
    for name in ("IQ/Only_LTE_frame_1", "Metadata/Only_LTE_frame_1.csv"):
        convert(root, tmp_path / "out", protocol="paper")  # nothing to do
        path = root / "Batch1_10MHz" / name
        before = path.stat()
        path.touch()
        with pytest.raises(ValueError, match="made by the same recipe"):
            convert(root, tmp_path / "out", protocol="paper")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_errors_on_the_command_line_are_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--input", str(tmp_path), "--output", str(tmp_path / "out")])
    assert "error: expected Batch1_5MHz or Batch1_10MHz" in capsys.readouterr().err.splitlines()[-1]


def test_one_bandwidth_alone(root, tmp_path):
    root.joinpath("Batch1_10MHz").rename(tmp_path / "elsewhere")
    convert(root, tmp_path / "out")
    assert sum(part.num_rows for part in load_dataset(str(tmp_path / "out")).values()) == 30


GOOD = {"Signal_Type": "LTE_DSSS", "DSSS_Mod": 2, "Sampling_Rate": 7.68e6, "No_of_Samples": NUM_SAMPLES}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"Signal_Type": "WiFi"}, "expected Signal_Type LTE or LTE_DSSS in .*frame_2.csv, found 'WiFi'"),
        ({"Signal_Type": "LTE"}, "the Signal_Type that the name of .*DSSS_frame_2.csv says, found 'LTE'"),
        ({"Signal_Type": ""}, "expected a value of Signal_Type in .*frame_2.csv, found DSSS_Mod"),
        ({"DSSS_Mod": 8}, "expected DSSS_Mod 2 or 4 in .*frame_2.csv, found '8'"),
        ({"DSSS_Mod": ""}, "expected DSSS_Mod 2 or 4 in .*frame_2.csv, found None"),
        ({"DSSS_Mod": "BPSK"}, "expected DSSS_Mod > 0 in .*frame_2.csv, found 'BPSK'"),
        ({"Sampling_Rate": ""}, "expected a value of Sampling_Rate in .*frame_2.csv"),
        ({"Sampling_Rate": "inf"}, "expected Sampling_Rate > 0 in .*frame_2.csv, found 'inf'"),
        ({"No_of_Samples": 0}, "expected No_of_Samples > 0 in .*, found '0'"),
        ({"No_of_Samples": ""}, "expected No_of_Samples or Frameduration in .*frame_2.csv"),
        ({"No_of_Samples": 5000}, "expected 5000 samples of 8 .* in .*IQ/.*frame_2, .* found 40008 bytes"),
        ({"No_of_Samples": "", "Frameduration": 4997.6 / 7.68e6}, "expected 4998 samples of .* found 40008 bytes"),
    ],
)
def test_wrong_metadata_leaves_nothing_behind(root, one, tmp_path, changes, match):
    write_csv(one[0], **GOOD | changes)
    with pytest.raises(ValueError, match=match):
        convert(root, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["POWDER_Dataset"]


def test_lte_by_its_name_must_not_be_dsss(root, tmp_path):
    write_csv(root / "Batch1_5MHz" / "Metadata" / "Only_LTE_frame_0.csv", **GOOD)
    with pytest.raises(ValueError, match="the name of .*Only_LTE_frame_0.csv says, found 'LTE_DSSS'"):
        convert(root, tmp_path / "out")


@pytest.mark.parametrize("content", ["", "a,b\n", "Signal_Type\nLTE\nLTE\n", "a,b\n1\n", "a\n1,2\n", '"a', "\xff"])
def test_csv_that_is_none_of_the_set(root, one, tmp_path, content):
    one[0].write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match="expected .*frame_2.csv, found"):
        convert(root, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (components(0, "f4").tobytes()[:-1], "found 40007 bytes: truncated"),
        (components(0, "f4").tobytes()[:-8], "found 40000 bytes: truncated"),
        (components(0, "f8").tobytes(), "found 80016 bytes"),
        (b"", "expected 5001 samples .*frame_2, by .* found 0 bytes"),
        (np.full((NUM_SAMPLES, 2), np.inf, "f4").tobytes(), "finite values in .*frame_2, found NaN or infinity"),
    ],
)
def test_wrong_samples_leave_nothing_behind(root, one, tmp_path, content, match):
    write_csv(one[0], **GOOD)
    one[1].write_bytes(content)
    with pytest.raises(ValueError, match=match):
        convert(root, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["POWDER_Dataset"]


def test_short_and_lonely_files(root, one, tmp_path):
    write_csv(one[0], **GOOD | {"No_of_Samples": 4095})
    one[1].write_bytes(bytes(4095 * 4))
    with pytest.raises(ValueError, match="at least 4096 samples in .*frame_2, found 4095"):
        convert(root, tmp_path / "out")
    one[1].rename(one[1].with_name("other"))
    with pytest.raises(ValueError, match="found one alone of Combined_LTE_DSSS_frame_2, other"):
        convert(root, tmp_path / "out")
    for path in one[0].parent.iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="expected .csv files in .*Metadata, found none"):
        convert(root, tmp_path / "out")
