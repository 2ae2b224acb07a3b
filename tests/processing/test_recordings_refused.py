"""What cannot be read is refused with a ValueError that names the file, what was expected and what was found."""

import itertools
import zipfile

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image
from scipy.io import wavfile

from processing.recordings import read_recording
from tests.recording_files import write_mat_v73, write_sigmf


@pytest.mark.parametrize(
    ("name", "content", "options", "match"),
    [
        ("a.cs16", bytes(7), {}, r"whole samples of 4 bytes \(ci16_le, 1 antennas\) in .*a.cs16, found 7 bytes"),
        ("a.cf32", bytes(24), {"num_antennas": 2}, "whole samples of 16 bytes .* found 24"),
        ("a.cu8", b"", {}, "expected samples in .*a.cu8, found an empty file"),
        ("a.bin", bytes(8), {}, "expected a datatype for .*a.bin, one of .*cu8.*; found none"),
        ("a.bin", bytes(8), {"datatype": "rf32_le"}, "expected datatype .*cf32_le.* found 'rf32_le'"),
        ("a.cu8", bytes(8), {"datatype": "ci8"}, "expected datatype cu8 for .*, found 'ci8'"),
        ("a.cu8", bytes(8), {"num_antennas": 0}, "expected num_antennas >= 1"),
        ("a.cf32", np.array([0, np.nan], "<f4").tobytes(), {}, "finite values in .*a.cf32, found NaN"),
        ("a.cf32", np.array([0, np.inf], "<f4").tobytes(), {}, "finite values in .*a.cf32, found NaN or infinity"),
        ("a.xyz", bytes(8), {}, r"expected one of \.sigmf-meta, .*\.dat, found 'a.xyz'"),
        ("a", bytes(8), {}, "expected one of .* found 'a'"),
        ("a.npy", bytes(8), {"datatype": "cu8"}, "expected no datatype for .*a.npy"),
        ("a.npy", bytes(8), {"variable": "x"}, "expected no variable for .*a.npy"),
    ],
)
def test_raw_errors(tmp_path, name, content, options, match):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=match):
        _ = read_recording(tmp_path / name, **options).values


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.npy, found no such file; compare file_name in metadata\.csv"):
        read_recording(tmp_path / "gone.npy")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"core:datatype": "rf32_le"}, "expected a core:datatype of .*cf32_le.* found 'rf32_le'"),
        ({"core:datatype": None}, "expected a core:datatype of .* found None"),
        ({"core:sha512": "00"}, "expected the core:sha512 of .* found another hash"),
        (
            {"annotations": [{"core:sample_start": 2, "core:sample_count": 9}]},
            "at least 11 samples in .* found 3: trunc",
        ),
        ({"captures": [{"core:sample_start": 3}]}, "at least 4 samples .* found 3: truncated"),
        ({"data": bytes(7)}, "whole samples of 2 bytes .*, found 7 bytes"),
        ({"data": b""}, "expected samples in .*sigmf-data, found an empty file"),
        ({"captures": [{}]}, "expected SigMF metadata in .*KeyError|expected SigMF metadata in .*sample_start"),
        ({"core:sample_rate": "fast"}, "expected SigMF metadata in .*fast"),
        ({"core:dataset": "gone.bin"}, "expected the samples of .*gone.bin, found no such file"),
        ({"core:dataset": "../a.bin"}, "expected SigMF metadata in .*Invalid name"),
        (
            {"captures": [{"core:sample_start": i, "core:header_bytes": 4} for i in (0, 1)]},
            "in the first capture only",
        ),
        ({"core:num_channels": 0}, "valid core:num_channels, .* found 0"),
        ({"core:sample_rate": float("nan")}, "valid .*core:sample_rate in .* nan"),
    ],
)
def test_sigmf_errors(tmp_path, options, match):
    path = write_sigmf(tmp_path, np.zeros((3, 1, 2)), "ci8", **options)
    with pytest.raises(ValueError, match=match):
        read_recording(path)


def test_sigmf_metadata_that_is_something_else(tmp_path):
    for content in (b"{", b"[]", b"{}", b"\xff\xfe"):
        (tmp_path / "a.sigmf-meta").write_bytes(content)
        with pytest.raises(ValueError, match=r"expected SigMF metadata in .*a\.sigmf-meta"):
            read_recording(tmp_path / "a.sigmf-meta")
    path = write_sigmf(tmp_path, np.zeros((3, 1, 2)), "ci8")
    with pytest.raises(ValueError, match="expected 4 antennas in .*, found 1"):
        read_recording(path, num_antennas=4)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros(4), r"found float64 \(4,\)"),
        (np.zeros((2, 3, 4, 5)), r"expected IQ as complex .* found float64 \(2, 3, 4, 5\)"),
        (np.zeros((0, 4)), "found an empty array"),
        (np.zeros((4, 2), "i8"), "expected IQ integers of 8, 16 or 32 bits"),
        (np.zeros((5, 3), complex), r"\(antennas, samples\) .* transpose it"),
        (np.array([["a", "b"]]), "expected numbers in"),
        (np.array([[True, False, True]]), "expected numbers in"),
        (np.array([1, np.nan * 1j]), "finite values"),
        (np.array([[1.0, 2, np.inf]]), "finite values"),
        (np.array([1e300, 0j]), "finite values"),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_array_errors(tmp_path, array, suffix, match):
    path = tmp_path / f"a.{suffix}"
    np.save(path, array) if suffix == "npy" else np.savez(path, array)
    with pytest.raises(ValueError, match=match) as caught:
        _ = read_recording(path).values
    assert str(path) in str(caught.value)


def test_pickled_arrays_are_refused(tmp_path):
    objects = np.array([1, "x"], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=objects)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ValueError, match=f"numbers in .*{name}"):
            read_recording(tmp_path / name)


def test_other_matlab_content_is_refused(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"c": np.array([1, "x"], dtype=object), "s": "text"})
    with pytest.raises(ValueError, match="expected one array in .*found none"):
        read_recording(tmp_path / "a.mat")
    path = write_mat_v73(tmp_path / "e.mat", x=(np.array([0, 5], "u8"), "double"))
    with h5py.File(path, "r+") as file:
        file["x"].attrs["MATLAB_empty"] = 1
    with pytest.raises(ValueError, match="found an empty array"):
        read_recording(path)
    scipy.io.savemat(tmp_path / "e2.mat", {"x": np.zeros((0, 3))})
    with pytest.raises(ValueError, match="found an empty array"):
        read_recording(tmp_path / "e2.mat")


def test_wav_errors(tmp_path):
    wavfile.write(tmp_path / "mono.wav", 8000, np.zeros(50, "i2"))
    with pytest.raises(ValueError, match=r"expected 2 channels \(I and Q\) in .*mono.wav, found 1"):
        read_recording(tmp_path / "mono.wav")
    wavfile.write(tmp_path / "four.wav", 8000, np.zeros((50, 4), "i2"))
    with pytest.raises(ValueError, match="expected 2 channels .* found 4"):
        read_recording(tmp_path / "four.wav")
    assert read_recording(tmp_path / "four.wav", num_antennas=2).shape == (2, 50)
    wavfile.write(tmp_path / "a.wav", 8000, np.zeros((50, 2), "i2"))
    for size in (0, 20, 44, 150):
        (tmp_path / "cut.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:size])
        with pytest.raises(ValueError, match="expected .* in .*cut.wav, found"):
            read_recording(tmp_path / "cut.wav")


def test_image_errors(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="gray or colour picture of 8 or 16 bits in .*found mode F"):
        read_recording(tmp_path / "float.tif")
    page = Image.fromarray(np.zeros((4, 4), np.uint8))
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    with pytest.raises(ValueError, match="found mode L, 2 frames"):
        read_recording(tmp_path / "pages.tif")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:1000])
    with pytest.raises(ValueError, match="expected a complete PNG picture in .*cut.png"):
        read_recording(tmp_path / "cut.png")


SUFFIXES = ["npy", "npz", "wav", "mat", "png", "jpg", "tif", "bmp", "sigmf-meta"]


CONTENTS = ["png", "zip", "npy", "wav", "hdf5", "zeros", "text", "empty", "half"]
TRUE_PAIRS = {("png", "png"), ("npy", "npy"), ("wav", "wav"), ("hdf5", "mat")}


@pytest.mark.parametrize(
    ("content", "suffix"), [pair for pair in itertools.product(CONTENTS, SUFFIXES) if pair not in TRUE_PAIRS]
)
def test_content_that_is_not_what_the_suffix_says(tmp_path, suffix, content):
    path, source = tmp_path / f"a.{suffix}", tmp_path / "source"
    if content == "png":
        Image.new("L", (4, 4)).save(source, format="PNG")
    elif content == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            archive.writestr("x.txt", "x")
    elif content in ("npy", "half"):
        with open(source, "wb") as file:
            np.save(file, np.zeros((9, 9)))
        if content == "half":
            source.write_bytes(source.read_bytes()[:300])
    elif content == "wav":
        wavfile.write(source, 8000, np.zeros((9, 2), "i2"))
    elif content == "hdf5":
        with h5py.File(source, "w") as file:
            file["x"] = np.zeros((3, 3))
    else:
        source.write_bytes({"zeros": bytes(600), "text": b"file_name,label\n" * 40, "empty": b""}[content])
    path.write_bytes(source.read_bytes())
    with pytest.raises(ValueError, match=f"expected .* in .*a.{suffix}, found"):
        read_recording(path)


def test_damaged_archives(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.random.default_rng(0).normal(size=(64, 64)))
    scipy.io.savemat(tmp_path / "a.mat", {"x": np.random.default_rng(0).normal(size=(64, 64))}, do_compression=True)
    write_mat_v73(tmp_path / "v73.mat", x=(np.random.default_rng(0).normal(size=(64, 64)), "double"))
    for name in ("a.npz", "a.mat", "v73.mat"):
        intact = (tmp_path / name).read_bytes()
        for size in (len(intact) // 2, len(intact) - 40):
            (tmp_path / name).write_bytes(intact[:size])
            with pytest.raises(ValueError, match=f"expected .* in .*{name}, found"):
                read_recording(tmp_path / name)
    np.savez_compressed(tmp_path / "b.npz", x=np.arange(4096.0).reshape(64, 64))
    damaged = bytearray((tmp_path / "b.npz").read_bytes())
    damaged[500:600] = bytes(100)
    (tmp_path / "b.npz").write_bytes(damaged)
    with pytest.raises(ValueError, match="expected .* in .*b.npz, found"):
        read_recording(tmp_path / "b.npz")
