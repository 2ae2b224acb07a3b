"""RadioML: pickles as Python 2 and 3 wrote them read back; a pickle that wants to run something is refused unrun."""

import json
import os
import pickle
from collections import Counter
from itertools import product

import numpy as np
import pytest
from datasets import load_dataset

from processing.radioml import STAND_INS, convert, main, read_pickle

NAME = "RML2016.10a_dict.pkl"


def make(number, rows=3, dtype="<f4"):
    """(rows, 2, 128) with a value of its own everywhere: exact in float32."""
    row, part, sample = np.ogrid[:rows, :2, :128]
    return (number * 4096 + row + part / 2 + sample / 512).astype(dtype)


SMALL = {("QPSK", -20): make(0), ("QPSK", 18): make(1), ("AM-DSB", -20): make(2)}


def python2_array(array, text):
    """Opcodes of an array as NumPy wrote them under Python 2: protocol 0 (text) or 2."""
    if text:
        shape = "".join(f"I{size}\n" for size in array.shape).encode()
        raw = repr(array.tobytes())[1:].encode()
        dtype = b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
        start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        return start + b"(I1\n(" + shape + b"t" + dtype + b"I00\nS" + raw + b"\ntb"
    shape = b"".join(b"J" + size.to_bytes(4, "little") for size in array.shape)
    raw = array.tobytes()
    dtype = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    data = b"T" + len(raw).to_bytes(4, "little") + raw
    return start + b"(K\x01(" + shape + b"t" + dtype + b"\x89" + data + b"tb"


def python2_pickle(content, text):
    start = b"(d" if text else b"\x80\x02}"
    entries = [
        b"(S'%b'\nI%d\nt%bs" % (modulation.encode(), snr_db, python2_array(array, text))
        for (modulation, snr_db), array in content.items()
    ]
    return start + b"".join(entries) + b"."


def old_numpy(data):
    """Globals as NumPy 1 named them (only without the lengths of protocol 4)."""
    return data.replace(b"numpy._core", b"numpy.core")


@pytest.mark.parametrize(
    "data",
    [
        python2_pickle(SMALL, text=True),
        python2_pickle(SMALL, text=False),
        pickle.dumps({(name.encode(), snr_db): array for (name, snr_db), array in SMALL.items()}, 4),
        pickle.dumps({(name, np.int64(snr_db)): array for (name, snr_db), array in SMALL.items()}, 2),
        pickle.dumps({key: array.astype(">f4") for key, array in SMALL.items()}),
        pickle.dumps({key: np.asfortranarray(array) for key, array in SMALL.items()}, 3),
        pickle.dumps({key: np.asfortranarray(array) for key, array in SMALL.items()}, 5),
        *(pickle.dumps(SMALL, protocol) for protocol in range(6)),
        *(old_numpy(pickle.dumps(SMALL, protocol)) for protocol in range(4)),
    ],
)
@pytest.mark.filterwarnings("ignore:numpy.core")
def test_every_way_that_the_sets_were_pickled(tmp_path, data):
    (tmp_path / NAME).write_bytes(data)
    plain = pickle.loads(data, encoding="latin-1")  # what is written above is what NumPy reads
    arrays = read_pickle(tmp_path / NAME)
    assert list(arrays) == [("AM-DSB", -20), ("QPSK", -20), ("QPSK", 18)]
    for (name, snr_db), array in arrays.items():
        assert type(name) is str and type(snr_db) is int
        expected = plain[name, snr_db] if (name, snr_db) in plain else plain[name.encode(), snr_db]
        np.testing.assert_array_equal(array, expected)
        np.testing.assert_array_equal(array, SMALL[name, snr_db])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """2 modulations at 2 SNRs: 950 rows of each are 10 blocks, the last of 50 rows."""
    content = {
        (name, snr_db): make(2 * i + j, 950) for i, name in enumerate("ba") for j, snr_db in enumerate((-20, 18))
    }
    path = tmp_path_factory.mktemp("radioml") / NAME
    path.write_bytes(python2_pickle(content, text=False))
    return path


def test_values_and_blocks(file, tmp_path):
    assert convert(file, tmp_path / "out", num_proc=2) == tmp_path / "out"
    parts = load_dataset(str(tmp_path / "out")).with_format("numpy")
    assert parts["train"].features["label"].names == ["a", "b"]
    assert parts["train"].features["iq"].shape == (1, 128, 2)
    groups = {split: set(part["group"]) for split, part in parts.items()}
    assert not groups["train"] & (groups["validation"] | groups["test"]) and not groups["validation"] & groups["test"]
    for split, count in {"train": 7, "validation": 1, "test": 2}.items():
        per_cell = Counter(group.rpartition("/")[0] for group in groups[split])
        assert per_cell == {f"{name}/{snr_db}": count for name in "ab" for snr_db in (-20, 18)}
    seen = []
    for part in parts.values():
        rows = part[:]
        assert set(rows["sampling_rate_hz"]) == {1e6} and set(rows["source"]) == {NAME}
        for name, snr_db in product("ab", (-20, 18)):
            chosen = rows["recording"] == f"{name}/{snr_db}"
            index, rest = np.divmod(rows["start"][chosen], 128)
            expected = make(2 * (name == "a") + (snr_db == 18), 950)[index]
            np.testing.assert_array_equal(rows["iq"][chosen][:, 0].transpose(0, 2, 1), expected)
            assert not rest.any() and set(rows["label"][chosen]) == {"ab".index(name)}
            assert set(rows["group"][chosen]) == {f"{name}/{snr_db}/{block}" for block in set(index // 100)}
            assert {json.loads(text)["snr_db"] for text in set(rows["parameters"][chosen])} == {snr_db}
        seen += zip(rows["recording"], rows["start"])
    assert len(set(seen)) == len(seen) == 4 * 950


def test_paper_protocol_shares_blocks(file, tmp_path):
    main(["--input", str(file), "--output", str(tmp_path / "out"), "--protocol", "paper"])
    parts = load_dataset(str(tmp_path / "out"))
    rows = {split: set(zip(part["recording"], part["start"])) for split, part in parts.items()}
    assert set(rows) == {"train", "validation"} and not rows["train"] & rows["validation"]
    assert len(rows["train"] | rows["validation"]) == 4 * 950
    assert 0.17 < len(rows["validation"]) / (4 * 950) < 0.23
    # Each block draws rows of its own.
    places = {split: Counter(start // 128 % 100 for _, start in pairs) for split, pairs in rows.items()}
    assert len(places["validation"]) == len(places["train"]) == 100
    assert len(set(parts["train"]["group"]) & set(parts["validation"]["group"])) == 40


def test_sampling_rate(tmp_path):
    content = {(name, 0): make(0, 300) for name in "ab"}
    for name, options, expected in (("RML22.01A", {}, 0), (NAME, {}, 1e6), (NAME, {"sampling_rate_hz": 2e5}, 2e5)):
        (tmp_path / name).write_bytes(pickle.dumps(content))
        output = convert(tmp_path / name, tmp_path / f"{expected}", **options)
        assert set(load_dataset(str(output), split="train")["sampling_rate_hz"]) == {expected}
    with pytest.raises(ValueError, match="made by the same recipe"):
        convert(tmp_path / NAME, tmp_path / "200000.0", sampling_rate_hz=1e5)
    with pytest.raises(ValueError, match="expected sampling_rate_hz >= 0, found -1"):
        convert(tmp_path / NAME, tmp_path / "new", sampling_rate_hz=-1)


class Calls:
    """Pickled, it is a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


CALLS = {  # global that the refusal names -> a call that makes a file
    "(posix|nt|os).system": lambda marker: Calls(os.system, f"touch {marker}"),
    "(__builtin__|builtins).exec": lambda marker: Calls(exec, f"open({str(marker)!r}, 'w').close()"),
    "(io|__builtin__).open": lambda marker: Calls(open, str(marker), "w"),
    "numpy.savetxt": lambda marker: Calls(np.savetxt, str(marker), [0.0]),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", CALLS)
def test_a_pickle_that_runs_something_is_refused_unrun(tmp_path, name, protocol):
    path, call = tmp_path / NAME, CALLS[name](tmp_path / "marker")
    for content in ({**SMALL, ("QPSK", 0): call}, [SMALL, call], call):
        path.write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(ValueError, match=f"expected a pickled dict .*{NAME}, found .* the global {name}"):
            convert(path, tmp_path / "out")
        assert [entry.name for entry in tmp_path.iterdir()] == [NAME]
    pickle.loads(path.read_bytes())  # so that the test can fail: it does run where it is let
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "the global os.system"),
        (b"cposix\nsystem\n(S'true'\ntR.", "the global posix.system"),
        (b"(S'true'\nios\nsystem\n.", "the global os.system"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0elib.npyio.load\x93.", "the global numpy.lib.npyio.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.", "the global numpy.ndarray.__class__"),
        (b"cnumpy.core.multiarray\nfromfile\n.", "the global numpy.core.multiarray.fromfile"),
        (b"c_codecs\ndecode\n.", "the global _codecs.decode"),
        (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "bytes in the encoding 'rot13'"),
        (b"cprocessing.radioml\nread_pickle\n.", "the global processing.radioml.read_pickle"),
        (b"Psome id\n.", "persistent"),
        (b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.", "NumPy values of type 'O8'"),
        (b"cnumpy\nndarray\n(I9\ntR.", "missing 2 required"),
    ],
)
def test_other_globals_are_refused(tmp_path, data, match):
    (tmp_path / NAME).write_bytes(data)
    with pytest.raises(ValueError, match=f"expected a pickled dict of NumPy arrays in .*{NAME}, found .*{match}"):
        convert(tmp_path / NAME, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_pickle_cannot_alter_the_reader(tmp_path):
    for (module, name), stand_in in STAND_INS.items():
        (tmp_path / NAME).write_bytes(f"c{module}\n{name}\n(N(S'altered'\nI1\ndtb.".encode())
        with pytest.raises(ValueError, match="expected a dict with entries in .*, found function"):
            read_pickle(tmp_path / NAME)
        assert not hasattr(stand_in, "altered")


NAN = make(0)
NAN[1, 1, 5] = np.nan


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({}, "expected a dict with entries in .*pkl"),
        ([make(0)], "expected a dict with entries in .*, found list"),
        ({("QPSK", 0): make(0, dtype="f8")}, r"float32 for \('QPSK', 0\) in .*pkl, found float64 \(3, 2, 128\)"),
        ({("QPSK", 0): make(0, dtype="i4")}, "float32 .* found int32"),
        ({("QPSK", 0): make(0).tolist()}, "float32 .* found a list"),
        ({("QPSK", 0): make(0)[:0]}, r"expected .*pkl, found \(0, 2, 128\)|found something else"),
        ({("QPSK", 0): make(0)[..., :127]}, r"shape \(n, 2, 128\) .*, found \(3, 2, 127\)"),
        ({("QPSK", 0): make(0).transpose(0, 2, 1)}, r"shape \(n, 2, 128\) .*, found \(3, 128, 2\)"),
        ({("QPSK", 0): NAN}, r"expected finite values for \('QPSK', 0\) in .*pkl, found NaN"),
        ({"QPSK": make(0)}, r"keys \(modulation, SNR in dB\) in .*pkl, found 'QPSK'"),
        ({(0, "QPSK"): make(0)}, r"keys \(modulation, SNR in dB\) .* found \(0, 'QPSK'\)"),
        ({("QPSK", float("nan")): make(0)}, "keys .* found .*nan"),
        ({("QPSK", 0): make(0), (b"QPSK", 0): make(1)}, "every .* once in .*pkl, found .* as text and as bytes"),
    ],
)
def test_wrong_content_leaves_nothing_behind(tmp_path, content, match):
    (tmp_path / NAME).write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=match):
        convert(tmp_path / NAME, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("text", [True, False])
def test_truncated_empty_and_missing(tmp_path, text):
    data = python2_pickle(SMALL, text)
    for content in (data[:-1], data[: len(data) // 2], data[:3], b"", b"not a pickle", bytes(100)):
        (tmp_path / NAME).write_bytes(content)
        with pytest.raises(ValueError, match=f"expected a pickled dict of NumPy arrays in .*{NAME}, found"):
            convert(tmp_path / NAME, tmp_path / "out")
    with pytest.raises(ValueError, match="expected the pickle file .*, found no such file"):
        convert(tmp_path, tmp_path / "out")
    # One block for each (modulation, SNR): nothing can be held out.
    (tmp_path / NAME).write_bytes(data)
    with pytest.raises(ValueError, match="expected a label with two groups"):
        convert(tmp_path / NAME, tmp_path / "out")
