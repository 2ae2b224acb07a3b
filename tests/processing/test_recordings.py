"""Every raw format is written here byte by byte (or by its own library) and read back with exact values."""

import hashlib
import struct

import numpy as np
import pytest
import scipy.io
import sigmf
from PIL import Image
from scipy.io import wavfile

from processing.recordings import DATATYPES, read_recording
from tests.recording_files import write_mat_v73, write_sigmf

IQ = np.array([0.5 - 0.25j, -1 + 0.75j, 0.125 + 0j], dtype=np.complex64)
TWO_ANTENNAS = np.stack([IQ, 1j * IQ])


def check_iq(recording, expected, rate_hz=0.0, frequency_hz=0.0):
    assert (recording.kind, recording.shape, recording.values.dtype) == ("iq", expected.shape, np.complex64)
    np.testing.assert_array_equal(recording.values, expected)
    assert (recording.sampling_rate_hz, recording.center_frequency_hz) == (rate_hz, frequency_hz)


@pytest.mark.parametrize(
    ("suffix", "raw", "expected"),
    [
        ("cu8", np.array([0, 255, 127, 128], "u1"), [-127.5 / 128 + 127.5j / 128, -0.5 / 128 + 0.5j / 128]),
        ("cs8", np.array([-128, 127, 1, -64], "i1"), [-1 + 127j / 128, 1 / 128 - 0.5j]),
        ("cs16", np.array([-32768, 32767, 1, 16384], "<i2"), [-1 + 32767j / 32768, 1 / 32768 + 0.5j]),
        ("cf32", np.array([0.1, -7, 3e-9, 0], "<f4"), [np.float32(0.1) - 7j, np.float32(3e-9)]),
    ],
)
def test_raw_binary_by_suffix(tmp_path, suffix, raw, expected):
    raw.tofile(tmp_path / f"a.{suffix}")
    check_iq(read_recording(tmp_path / f"a.{suffix}"), np.array([expected], np.complex64))


@pytest.mark.parametrize("datatype", DATATYPES)
def test_bin_of_every_datatype(tmp_path, datatype):
    dtype = DATATYPES[datatype]
    # One antenna after the other at each instant: A0 I, A0 Q, A1 I, A1 Q, next instant ...
    raw = np.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]], [[9, 10], [11, 12]]], dtype)
    raw.tofile(tmp_path / "a.bin")
    half = 1 if dtype.kind == "f" else 2 ** (8 * dtype.itemsize - 1)
    middle = half - 0.5 if dtype.kind == "u" else 0
    scaled = (raw.astype(float) - middle) / half
    expected = (scaled[..., 0] + 1j * scaled[..., 1]).T.astype(np.complex64)
    check_iq(read_recording(tmp_path / "a.bin", datatype=datatype, num_antennas=2), expected)


def test_raw_is_mapped_and_windows_are_exact(tmp_path):
    np.arange(2000, dtype="<i2").tofile(tmp_path / "a.cs16")
    recording = read_recording(tmp_path / "a.cs16")
    assert isinstance(recording.raw, np.memmap)
    window = recording.window(300, 2)
    np.testing.assert_array_equal(window, np.array([[600 + 601j, 602 + 603j]]) / 32768)
    window[:] = 0  # a copy: the file stays as it is
    assert recording.values[0, 300] == (600 + 601j) / 32768


@pytest.mark.parametrize("datatype", ["cu8", "ci16_be", "cf32_le"])
@pytest.mark.parametrize("name", ["a.b.sigmf-meta", "a.b.sigmf-data"])
def test_sigmf(tmp_path, datatype, name):
    raw = np.arange(12).reshape(3, 2, 2)
    data = raw.astype(DATATYPES[datatype]).tobytes()
    fields = {"core:sha512": hashlib.sha512(data).hexdigest(), "core:sample_rate": 2e6}
    write_sigmf(tmp_path, raw, datatype, 2, annotations=[{"core:sample_start": 1, "core:sample_count": 2}], **fields)
    scaled = {"cu8": (raw - 127.5) / 128, "ci16_be": raw / 32768, "cf32_le": raw}[datatype]
    recording = read_recording(tmp_path / name)
    check_iq(recording, (scaled[..., 0] + 1j * scaled[..., 1]).T.astype(np.complex64), 2e6, 915e6)
    assert [path.name for path in recording.files] == ["a.b.sigmf-meta", "a.b.sigmf-data"]


def test_sigmf_written_by_its_library(tmp_path):
    meta = sigmf.fromarray(IQ)
    meta.sample_rate = 1e6
    meta.tofile(tmp_path / "x")
    check_iq(read_recording(tmp_path / "x.sigmf-meta"), IQ[None], rate_hz=1e6)


def test_sigmf_header_and_trailing_bytes_are_not_samples(tmp_path):
    captures = [{"core:sample_start": 0, "core:header_bytes": 5}]
    path = write_sigmf(
        tmp_path, None, "ci8", captures=captures, data=b"HEAD:\x01\x02\x03\x04END", **{"core:trailing_bytes": 3}
    )
    check_iq(read_recording(path), np.array([[1 + 2j, 3 + 4j]], np.complex64) / 128)


def test_sigmf_retuned_has_no_center_frequency(tmp_path):
    captures = [{"core:sample_start": start, "core:frequency": 1e9 + start} for start in (0, 1)]
    assert (
        read_recording(write_sigmf(tmp_path, np.zeros((3, 1, 2)), "ci8", captures=captures)).center_frequency_hz == 0
    )


ARRAYS = {
    "complex (T,)": (IQ.astype(complex), "iq", IQ[None]),
    "complex (A, T)": (TWO_ANTENNAS, "iq", TWO_ANTENNAS),
    "complex (A, T), columns first": (np.asfortranarray(TWO_ANTENNAS), "iq", TWO_ANTENNAS),
    "real (T, 2)": (np.array([[0, 255], [127, 128], [1, 2]], "u1"), "iq",
                    np.array([[-255 + 255j, -1 + 1j, -253 - 251j]]) / 256),
    "real (A, T, 2)": (np.stack([TWO_ANTENNAS.real, TWO_ANTENNAS.imag], -1), "iq", TWO_ANTENNAS),
    "image (H, W)": (np.arange(12, dtype="i2").reshape(3, 4), "image", np.arange(12.0).reshape(1, 3, 4)),
    "image (C, H, W)": (np.arange(24.0).reshape(2, 4, 3), "image", np.arange(24.0).reshape(2, 4, 3)),
}  # fmt: skip


MATLAB_CLASSES = {"float32": "single", "float64": "double"}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("suffix", ["npy", "npz", "mat", "v73.mat"])
def test_arrays(tmp_path, name, suffix):
    array, kind, expected = ARRAYS[name]
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, array)
    elif suffix == "npz":
        np.savez_compressed(path, x=array)
    elif suffix == "mat":  # MATLAB has no vectors: this one becomes a column
        scipy.io.savemat(path, {"x": array, "fs": 1e6, "note": "text"}, oned_as="column")
    else:
        array = array[:, None] if array.ndim == 1 else array
        note = np.frombuffer(b"text", "u1").astype("u2")[None]
        matlab_class = MATLAB_CLASSES.get(array.real.dtype.name, array.dtype.name)
        write_mat_v73(path, x=(array, matlab_class), fs=([[1e6]], "double"), note=(note, "char"))
    recording = read_recording(path)
    assert (recording.kind, recording.shape) == (kind, expected.shape)
    assert recording.values.dtype == (np.complex64 if kind == "iq" else np.float32)
    np.testing.assert_array_equal(recording.values, expected)


@pytest.mark.parametrize("suffix", ["npz", "mat", "v73.mat"])
def test_variable_chooses_the_array(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "npz":
        np.savez(path, one=IQ, two=2 * IQ)
    elif suffix == "mat":
        scipy.io.savemat(path, {"one": IQ, "two": 2 * IQ})
    else:
        write_mat_v73(path, one=(IQ[None], "single"), two=(2 * IQ[None], "single"))
    check_iq(read_recording(path, variable="two"), 2 * IQ[None])
    with pytest.raises(ValueError, match="expected one array in .*, or its name given as variable; found one, two"):
        read_recording(path)
    with pytest.raises(ValueError, match="expected an array 'three' in .*, found one, two"):
        read_recording(path, variable="three")


@pytest.mark.parametrize("dtype", ["u1", "<i2", "<i4", "<f4"])
def test_wav(tmp_path, dtype):
    raw = np.array([[0, 100], [255, 128], [1, 2]]).astype(dtype)
    wavfile.write(tmp_path / "a.wav", 48000, raw)
    scaled = {"u1": (raw - 127.5) / 128, "<i2": raw / 32768, "<i4": raw / 2.0**31, "<f4": raw}[dtype]
    expected = (scaled[:, 0] + 1j * scaled[:, 1]).astype(np.complex64)[None]
    check_iq(read_recording(tmp_path / "a.wav"), expected, rate_hz=48000)


def test_wav_of_24_bits_with_a_foreign_chunk(tmp_path):
    data = b"".join(value.to_bytes(3, "little", signed=True) for value in (-(2**23), 2**23 - 1, 1, 2**22))
    fmt = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 2, 96000, 96000 * 6, 6, 24)
    body = b"WAVE" + fmt + b"auxi" + struct.pack("<I", 4) + bytes(4) + b"data" + struct.pack("<I", len(data)) + data
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    expected = np.array([[-1 + 1j * (1 - 2**-23), 2**-23 + 0.5j]], np.complex64)
    check_iq(read_recording(tmp_path / "a.wav"), expected, rate_hz=96000)


def test_images(tmp_path):
    gray = np.array([[0, 51, 255], [102, 204, 1]], np.uint8)
    colour = np.stack([gray, gray // 2, 255 - gray], -1)
    for suffix in ("png", "tif", "bmp"):
        for name, pixels in {"gray": gray, "colour": colour}.items():
            Image.fromarray(pixels).save(tmp_path / f"{name}.{suffix}")
            recording = read_recording(tmp_path / f"{name}.{suffix}")
            expected = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
            assert (recording.kind, recording.shape) == ("image", expected.shape)
            np.testing.assert_array_equal(recording.values, expected.astype(np.float32) / 255)
    Image.fromarray(np.dstack([colour, gray])).save(tmp_path / "alpha.png")
    assert read_recording(tmp_path / "alpha.png").shape == (3, 2, 3)
    Image.fromarray(np.array([[0, 65535, 256]], np.uint16)).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(
        read_recording(tmp_path / "deep.png").values, np.array([[[0, 1, 256 / 65535]]], np.float32)
    )
    Image.fromarray(np.full((8, 8), 51, np.uint8)).save(tmp_path / "flat.jpg")
    np.testing.assert_array_equal(read_recording(tmp_path / "flat.jpg").values, np.full((1, 8, 8), np.float32(0.2)))
