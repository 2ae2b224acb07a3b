"""Files of impulse responses and positions -> magnitudes with positions, split by place; and what is refused."""

import itertools

import numpy as np
import pandas as pd
import pytest
from datasets import load_dataset

from processing.uwb_cir import convert, main, read_measurements

NUM_PLACES, REPEATS, ANCHORS, TAPS = 20, 3, 4, 16
SPEED_OF_LIGHT_M_S = 299792458.0
SAMPLING_RATE_HZ = 5e8
ANCHORS_M = np.array([[0, 0, 2.5], [6, 0, 2.5], [0, 6, 2.5], [6, 6, 2.5]])


def measure(num_axes=3, seed=0):
    """Responses with one tap, at the delay of the direct path; places are repeated, within some millimetres."""
    rng = np.random.default_rng(seed)
    places = np.repeat(np.round(rng.uniform(0, 6, (NUM_PLACES, 3)), 2), REPEATS, axis=0)
    position = places + rng.uniform(-0.004, 0.004, places.shape)
    distance = np.linalg.norm(position[:, None] - ANCHORS_M, axis=-1)
    tap = np.round(distance / SPEED_OF_LIGHT_M_S * SAMPLING_RATE_HZ).astype(int)
    cir = np.zeros((len(position), ANCHORS, TAPS), complex)
    phase = np.exp(1j * rng.uniform(0, 2 * np.pi, tap.shape))
    np.put_along_axis(cir, tap[..., None], (phase / distance)[..., None], axis=-1)
    return {"cir": cir, "position": position[:, :num_axes], "distance": distance, "tap": tap}


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def write_csv(path, cir, position, **columns):
    """Taps in reverse and anchors from 1: columns are told by their names."""
    table = dict(zip(("x_m", "y_m", "z_m"), position.T))
    for anchor, tap in itertools.product(range(cir.shape[1]), reversed(range(cir.shape[2]))):
        values = cir[:, anchor, tap]
        table[f"cir_{anchor + 1}_{tap}"] = [f"{v:.9g}" for v in values] if np.iscomplexobj(values) else values
    pd.DataFrame(table | columns).to_csv(path, index=False)
    return path


def rows_of(output):
    return [row for part in load_dataset(str(output)).values() for row in part]


def test_npz_rows(tmp_path):
    data = measure()
    arrays = {name: data[name] for name in ("cir", "position")}
    path = write_npz(tmp_path / "a.npz", **arrays, sampling_rate_hz=SAMPLING_RATE_HZ, other=np.array(["x"]))
    rows = rows_of(convert(path, tmp_path / "out", num_proc=2))
    assert sorted(row["start"] for row in rows) == list(range(NUM_PLACES * REPEATS))
    for row in rows:
        image, i = np.array(row["image"], np.float32), row["start"]
        assert image.shape == (1, ANCHORS, TAPS)
        np.testing.assert_array_equal(image[0].argmax(-1), data["tap"][i])
        np.testing.assert_allclose(image[0].max(-1), 1 / data["distance"][i], rtol=1e-6)
        np.testing.assert_allclose(row["position"], data["position"][i], rtol=1e-6)
        assert (row["recording"], row["source"], row["sampling_rate_hz"]) == ("a.npz", "a.npz", SAMPLING_RATE_HZ)
    assert rows_of(convert(path, tmp_path / "one")) == rows


def test_repeated_places_stay_together(tmp_path):
    data = measure(num_axes=2)
    path = write_npz(tmp_path / "a.npz", cir=np.abs(data["cir"]), position=data["position"])
    parts = load_dataset(str(convert(path, tmp_path / "out")))
    counts = {name: len(part) // REPEATS for name, part in parts.items()}
    assert counts == {"train": 14, "validation": 2, "test": 4}
    places = {name: {row // REPEATS for row in part["start"]} for name, part in parts.items()}
    assert sum(map(len, places.values())) == NUM_PLACES
    x_cm, y_cm = np.round(100 * data["position"][0]).astype(int)
    assert next(row for row in rows_of(tmp_path / "out") if row["start"] == 0)["group"] == f"{x_cm} {y_cm} cm"
    other = load_dataset(str(convert(path, tmp_path / "other", seed=1)))
    assert set(other["test"]["start"]) != set(parts["test"]["start"])

    rows = rows_of(convert(path, tmp_path / "paper", protocol="paper"))
    held_out = {row["start"] for row in rows if row["split"] == "validation"}
    assert len(rows) == NUM_PLACES * REPEATS and 3 < len(held_out) < 25
    assert any(0 < len(held_out & set(range(i, i + REPEATS))) < REPEATS for i in range(0, len(rows), REPEATS))


@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_named_groups(tmp_path, kind):
    data = measure()
    walks = np.array([f"{i:02d}" for i in np.arange(len(data["cir"])) % 6])
    write = write_npz if kind == "npz" else write_csv
    path = write(tmp_path / f"a.{kind}", cir=np.abs(data["cir"]), position=data["position"], group=walks)
    parts = load_dataset(str(convert(path, tmp_path / "out")))
    assert {name: len(set(part["group"])) for name, part in parts.items()} == {"train": 4, "validation": 1, "test": 1}
    assert all(row["group"] == walks[row["start"]] for row in rows_of(tmp_path / "out"))


@pytest.mark.parametrize("kind", ["magnitude", "complex", "complex with i"])
def test_csv_holds_what_npz_holds(tmp_path, kind):
    data = measure()
    cir = np.abs(data["cir"]) if kind == "magnitude" else data["cir"]
    path = write_csv(tmp_path / "a.csv", cir, data["position"], sampling_rate_hz=SAMPLING_RATE_HZ, note="is text")
    if kind == "complex with i":
        path.write_text(path.read_text().replace("j", "i"))
    found = read_measurements(path)
    np.testing.assert_allclose(found.magnitude, np.abs(data["cir"]), rtol=1e-6)
    np.testing.assert_allclose(found.position_m, data["position"])
    assert set(found.sampling_rate_hz) == {SAMPLING_RATE_HZ}
    assert (
        found.group.tolist()
        == read_measurements(write_npz(tmp_path / "a.npz", cir=data["cir"], position=data["position"])).group.tolist()
    )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"cir": None}, "expected cir .* in .*a.npz, found position"),
        ({"position": None}, "expected position .* in .*a.npz, found cir"),
        ({"cir": np.ones((60, 16))}, r"expected cir as numbers \(N, anchors, taps\) in .*, found float64 \(60, 16\)"),
        ({"cir": np.ones((0, 4, 16))}, r"found float64 \(0, 4, 16\)"),
        ({"cir": np.full((60, 4, 16), "1")}, r"found <U1 \(60, 4, 16\)"),
        ({"cir": np.full((60, 4, 16), True)}, r"found bool \(60, 4, 16\)"),
        ({"cir": np.full((60, 4, 16), -80.0)}, "magnitudes >= 0, linear and not in dB, .* found -80"),
        ({"cir": np.full((60, 4, 16), np.nan)}, "finite cir in .*a.npz, found NaN, blank or infinity in row 0"),
        ({"cir": np.full((60, 4, 16), 1e39)}, "finite cir .* infinity in row 0"),
        ({"position": np.ones((59, 3))}, r"position as numbers \(60, 2 or 3\).* found float64 \(59, 3\)"),
        ({"position": np.ones((60, 4))}, r"found float64 \(60, 4\)"),
        ({"position": np.r_[np.ones((7, 2)), np.full((53, 2), np.inf)]}, "finite position .* in row 7"),
        ({"group": np.ones(60)}, r"group as text or whole numbers \(60,\) .* found float64 \(60,\)"),
        ({"group": np.ones((60, 2), int)}, r"found int64 \(60, 2\)"),
        ({"group": np.array([{}] * 60)}, "complete .npz file of arrays in .*a.npz.*pickle"),
        ({"group": np.ones(60, int)}, "two groups to hold one out, found one each of '1'"),
        ({"sampling_rate_hz": np.ones(59)}, r"one number or \(60,\) .* found float64 \(59,\)"),
        ({"sampling_rate_hz": -1.0}, "sampling_rate_hz >= 0 .* found -1"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, changes, match):
    data = measure()
    arrays = {"cir": data["cir"], "position": data["position"]} | changes
    path = write_npz(tmp_path / "a.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match=match):
        convert(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def edited(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (("cir_2_3,", "cir_2_x,"), "columns cir_<anchor>_<tap> .* found 'cir_2_x'"),
        (("cir_2_3,", "cir_2_4,"), "columns cir_<anchor>_<tap> .* once in .*, found 'cir_2_4.1'"),
        (("cir_2_3,", "other,"), "every tap of every anchor in .*a.csv, found no cir_2_3"),
        (("y_m", "z"), "columns x_m, y_m.* found x_m, z_m"),
        (("x_m,y_m,z_m", "a,b,c"), "expected position .* found cir"),
        (("\n", "\nfar"), "expected numbers in .*a.csv, found other text"),
    ],
)
def test_bad_tables_are_refused(tmp_path, edit, match):
    data = measure()
    path = write_csv(tmp_path / "a.csv", np.abs(data["cir"]), data["position"])
    edited(path, *edit)
    with pytest.raises(ValueError, match=match):
        convert(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_truncated_and_other_files_are_refused(tmp_path):
    data = measure()
    path = write_csv(tmp_path / "a.csv", np.abs(data["cir"]), data["position"])
    text = path.read_text()
    path.write_text(text[: text.rindex(",") - 20])
    with pytest.raises(ValueError, match="finite cir in .*a.csv, found NaN, blank or infinity in row 59"):
        convert(path, tmp_path / "out")
    path.write_text("")
    with pytest.raises(ValueError, match="comma-separated table in .*a.csv"):
        convert(path, tmp_path / "out")
    path.write_bytes(b"\xff\xfe\x00\x80" * 20)
    with pytest.raises(ValueError, match="comma-separated table in .*a.csv"):
        convert(path, tmp_path / "out")
    path = write_npz(tmp_path / "a.npz", cir=data["cir"], position=data["position"])
    whole = path.read_bytes()
    for content in (whole[:-100], whole[:500], b"", b"text", whole[:300] + b"\0" * 50 + whole[350:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="complete .npz file of arrays in .*a.npz"):
            convert(path, tmp_path / "out")
    with pytest.raises(ValueError, match="a .npz or .csv file, found .*a.mat"):
        convert(tmp_path / "a.mat", tmp_path / "out")
    with pytest.raises(ValueError, match="gone.npz, found no such file"):
        convert(tmp_path / "gone.npz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_changed_file_is_read_again(tmp_path):
    data = measure()
    path = write_npz(tmp_path / "a.npz", cir=data["cir"], position=data["position"])
    convert(path, tmp_path / "out")
    assert convert(path, tmp_path / "out") == tmp_path / "out"
    write_npz(path, cir=2 * data["cir"], position=data["position"], sampling_rate_hz=1)
    with pytest.raises(ValueError, match="made by the same recipe"):
        convert(path, tmp_path / "out")
    double = {row["start"]: np.array(row["image"]) for row in rows_of(convert(path, tmp_path / "double"))}
    for row in rows_of(tmp_path / "out"):
        np.testing.assert_allclose(double[row["start"]], 2 * np.array(row["image"]), rtol=1e-6)


def test_command_line(tmp_path, capsys):
    data = measure()
    path = write_npz(tmp_path / "a.npz", cir=data["cir"], position=data["position"])
    main(["--input", str(path), "--output", str(tmp_path / "out"), "--protocol", "paper"])
    assert capsys.readouterr().out.split()[-1] == str(tmp_path / "out")
    with pytest.raises(SystemExit):
        main(["--input", str(tmp_path / "b.npz"), "--output", str(tmp_path / "other")])
    assert "b.npz, found no such file" in capsys.readouterr().err
