"""Read recordings of any length piece by piece with NumPy alone: SigMF, raw binaries, WAV and NPY.

Part of every saved folder, so that its pipelines take file names without any other package. More formats (MATLAB, NPZ,
pictures) and their libraries: `processing.recordings` of the repository.
"""

import hashlib
import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .csi_captures_mmwfm import CSI_SUFFIXES, capture_tool, read_capture

# SigMF name of a complex sample -> dtype of its I and of its Q, which are interleaved in the file.
DATATYPES = {"ci8": np.dtype("i1"), "cu8": np.dtype("u1")} | {
    f"c{kind}{8 * size}_{order}": np.dtype(f"{'<' if order == 'le' else '>'}{kind}{size}")
    for kind, size in [("i", 2), ("u", 2), ("i", 4), ("u", 4), ("f", 4), ("f", 8)]
    for order in ("le", "be")
}
RAW_SUFFIXES = {".bin": None, ".cu8": "cu8", ".cs8": "ci8", ".cs16": "ci16_le", ".cf32": "cf32_le"}
SUFFIXES = (".sigmf-meta", ".sigmf-data", ".npy", ".wav", *RAW_SUFFIXES, *CSI_SUFFIXES)
# What a file starts with, whatever its name says.
SIGNATURES = {
    b"\x93NUMPY": "an .npy array",
    b"RIFF": "a .wav file",
    b"RF64": "a .wav file",
    b"PK\x03\x04": "a ZIP archive (.npz, .zip, .pt)",
    b"\x89HDF\r\n": "an HDF5 file (.h5, MATLAB v7.3)",
    b"MATLAB 5.0": "a MATLAB file",
    b"\x89PNG": "a PNG picture",
    b"\x80\x04\x95": "a Python pickle",
    b'{"global"': "SigMF metadata",
}
WAV_TYPES = {(1, 8): "u1", (1, 16): "<i2", (1, 24): "V3", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8"}


@dataclass(frozen=True)
class Recording:
    """IQ or image-like data in a file; time is the last axis. Nothing is held but what `window` returns.

    Attributes:
        kind: "iq", "image" or "csi".
        shape: (A, T) antennas x samples, (C, H, W) or (A, subcarriers, packets).
        open_raw: maps the file: complex (A, T), real (A, T, 2), (C, H, W) or CSI, as stored.
        sampling_rate_hz, center_frequency_hz: 0 where the file does not say.
    """

    path: Path
    kind: str
    shape: tuple[int, ...]
    open_raw: Callable[[], np.ndarray]
    sampling_rate_hz: float = 0.0
    center_frequency_hz: float = 0.0

    def window(self, start: int, length: int) -> np.ndarray:
        """Samples (columns, packets) start to start + length: IQ complex64 (A, length), image float32 (C, H, length), CSI
        as complex64 or float32 (A, subcarriers, length).

        IQ integers become full scale +-1: for 8 bits (x - 127.5) / 128 if unsigned, x / 128 if signed, and so on.

        Raises:
            ValueError: a value is NaN or infinite.
        """
        # Mapped anew each time: pages that were read stay resident for as long as a map lives.
        raw = self.open_raw()
        raw = raw[:, start : start + length] if self.kind == "iq" else raw[..., start : start + length]
        with np.errstate(invalid="ignore", over="ignore"):
            if raw.dtype.kind == "c":
                values = np.array(raw, dtype=np.complex64, order="C")
            elif self.kind != "iq":
                values = np.array(raw, dtype=np.float32, order="C")
            else:
                values = np.array(full_scale(raw), dtype=np.float32, order="C").view(np.complex64)[..., 0]
        if not np.isfinite(values).all():
            raise ValueError(
                f"expected finite values in {self.path}, found NaN or infinity after sample {start}: damaged, or "
                "another datatype"
            )
        return values


def full_scale(raw: np.ndarray) -> np.ndarray:
    """Integers -> floats in [-1, 1]; floats as they are."""
    if raw.dtype.kind == "f":
        return raw
    if raw.dtype.kind == "V":  # 24 bit: as the upper bytes of 32
        bytes_ = np.zeros((*raw.shape, 4), np.uint8)
        bytes_[..., 1:] = np.frombuffer(raw.tobytes(), np.uint8).reshape(*raw.shape, 3)
        raw = bytes_.view("<i4")[..., 0]
    half = 2.0 ** (8 * raw.dtype.itemsize - 1)
    floats = raw.astype(np.result_type(raw.dtype, np.float32))  # float64 where float32 would round
    return (floats - (half - 0.5)) / half if raw.dtype.kind == "u" else floats / half


def describe(
    path: Path | str, array: np.ndarray, kind: str | None = None
) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    """What an array is: kind, and how it becomes (A, T), (A, T, 2), (C, H, W) or (A, subcarriers, packets).

    Args:
        kind: "iq", "image" or "csi" where it is known; None: by dtype and shape, where three complex axes are CSI.
    """
    found = f"{array.dtype} {array.shape}"
    if array.dtype.kind not in "iufc":
        raise ValueError(f"expected numbers in {path}, found {found}")
    if array.size == 0:
        raise ValueError(f"expected samples in {path}, found an empty array, {found}")
    is_complex = array.dtype.kind == "c"
    if kind == "csi" or (kind is None and is_complex and array.ndim == 3):
        if array.ndim not in (2, 3):
            raise ValueError(
                f"expected CSI as (subcarriers, packets) or (antennas, subcarriers, packets) in {path}, found {found}"
            )
        return "csi", lambda raw: raw.reshape((-1, *array.shape[-2:]))
    is_pairs = not is_complex and array.ndim in (2, 3) and array.shape[-1] == 2 and kind != "image"
    if kind != "image" and (is_pairs or (is_complex and array.ndim in (1, 2))):
        shape = array.shape if array.ndim == 2 + is_pairs else (1, *array.shape)
        if array.dtype.kind in "iu" and array.dtype.itemsize > 4:
            raise ValueError(f"expected IQ integers of 8, 16 or 32 bits in {path}, found {found}: no full scale")
        if shape[0] > shape[1]:
            raise ValueError(f"expected IQ as (antennas, samples) in {path}, found {found}: transpose it")
        return "iq", lambda raw: raw.reshape(shape)
    if kind != "iq" and not is_complex and array.ndim in (2, 3):
        return "image", lambda raw: raw.reshape((-1, *array.shape[-2:]))
    forms = {
        "iq": "IQ as complex (T,) or (A, T), or real (T, 2) or (A, T, 2)",
        "image": "image-like real (H, W) or (C, H, W)",
        "csi": "CSI as complex (A, subcarriers, packets)",
    }
    expected = forms[kind] if kind else ", or ".join(forms.values())
    raise ValueError(f"expected {expected} in {path}, found {found}")


def map_interleaved(path, dtype, num_antennas, offset, data_bytes, name, **attributes) -> Recording:
    """Antenna by antenna at each instant, I then Q."""
    sample_bytes = 2 * dtype.itemsize * num_antennas
    if data_bytes <= 0:
        raise ValueError(f"expected samples in {path}, found an empty file ({max(data_bytes, 0)} bytes of samples)")
    if data_bytes % sample_bytes:
        raise ValueError(
            f"expected whole samples of {sample_bytes} bytes ({name}, {num_antennas} antennas) in {path}, found "
            f"{data_bytes} bytes: truncated, or another datatype"
        )
    shape = (data_bytes // sample_bytes, num_antennas, 2)

    def open_raw():
        return np.memmap(path, dtype, mode="r", offset=offset, shape=shape).transpose(1, 0, 2)

    return Recording(path, "iq", (num_antennas, shape[0]), open_raw, **attributes)


def check_signature(path: Path, expected: str, allowed: tuple[bytes, ...] = ()):
    """A file that starts like one of another format is refused by name."""
    with path.open("rb") as file:
        start = file.read(16)
    for signature, found in SIGNATURES.items():
        if start.startswith(signature) and signature not in allowed:
            raise ValueError(f"expected {expected} in {path}, found {found}")
    if allowed and not start.startswith(allowed):
        raise ValueError(f"expected {expected} in {path}, found a file that starts with {start[:8]!r}")


def read_raw(path: Path, datatype: str | None, num_antennas: int, skip_bytes=0, trailing_bytes=0, **attributes):
    if datatype not in DATATYPES:
        raise ValueError(f"expected a datatype for {path}, one of {', '.join(sorted(DATATYPES))}; found {datatype}")
    check_signature(path, f"raw {datatype} samples")
    data_bytes = path.stat().st_size - skip_bytes - trailing_bytes
    return map_interleaved(path, DATATYPES[datatype], num_antennas, skip_bytes, data_bytes, datatype, **attributes)


def read_npy(path: Path, kind: str | None = None) -> Recording:
    check_signature(path, "an .npy array", (b"\x93NUMPY",))
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # damaged headers raise of all kinds
        raise ValueError(
            f"expected a complete .npy file of numbers in {path}, found something else: {error}"
        ) from error
    kind, arrange = describe(path, array, kind)
    shape = arrange(array).shape[: 2 if kind == "iq" else 3]
    return Recording(path, kind, shape, lambda: arrange(np.lib.format.open_memmap(path, mode="r")))


def read_wav(path: Path, num_antennas: int) -> Recording:
    """Channels I, Q (of every antenna in turn); also RF64, for files above 4 GB."""
    check_signature(path, "a .wav file", (b"RIFF", b"RF64"))
    size = path.stat().st_size
    chunks, position = {}, 12
    with path.open("rb") as file:
        while position + 8 <= size and b"data" not in chunks:
            file.seek(position)
            name, length = struct.unpack("<4sI", file.read(8))
            chunks[name] = (position + 8, length)
            position += 8 + length + length % 2
        headers = {}
        for name in (b"fmt ", b"ds64"):
            if name in chunks:
                file.seek(chunks[name][0])
                headers[name] = file.read(min(chunks[name][1], 64))
    if len(headers.get(b"fmt ", b"")) < 16 or b"data" not in chunks:
        raise ValueError(f"expected a complete .wav file in {path}, found no format or no data in it")
    encoding, channels, rate_hz, _, _, bits = struct.unpack("<HHIIHH", headers[b"fmt "][:16])
    if encoding == 0xFFFE and len(headers[b"fmt "]) >= 26:
        encoding = struct.unpack("<H", headers[b"fmt "][24:26])[0]
    offset, length = chunks[b"data"]
    if length == 0xFFFFFFFF and len(headers.get(b"ds64", b"")) >= 16:
        length = struct.unpack("<Q", headers[b"ds64"][8:16])[0]
    if (encoding, bits) not in WAV_TYPES:
        raise ValueError(f"expected PCM or float samples in {path}, found format {encoding} of {bits} bits")
    if channels != 2 * num_antennas:
        raise ValueError(f"expected {2 * num_antennas} channels (I and Q) in {path}, found {channels}")
    if offset + length > size:
        raise ValueError(f"expected {length} bytes of samples in {path}, found {size - offset}: truncated")
    dtype = np.dtype(WAV_TYPES[encoding, bits])
    return map_interleaved(path, dtype, num_antennas, offset, length, f"{bits} bit", sampling_rate_hz=float(rate_hz))


def read_sigmf(path: Path) -> Recording:
    """By its `.sigmf-meta` or `.sigmf-data`; checks the hash and the extent of the samples."""
    path = path.with_suffix(".sigmf-meta")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        fields, captures, annotations = meta["global"], meta.get("captures", []), meta.get("annotations", [])
        data_name = fields.get("core:dataset") or f"{path.stem}.sigmf-data"
        datatype, num_channels = fields["core:datatype"], int(fields.get("core:num_channels", 1))
        rate_hz = float(fields.get("core:sample_rate", 0))
        frequencies_hz = {float(capture.get("core:frequency", 0)) for capture in captures}
        header_bytes = [int(capture.get("core:header_bytes", 0)) for capture in captures] or [0]
        trailing_bytes = int(fields.get("core:trailing_bytes", 0))
        ends = [entry["core:sample_start"] + entry.get("core:sample_count", 0) for entry in annotations]
        ends += [capture["core:sample_start"] + 1 for capture in captures]
        num_required = max(ends, default=0) - int(fields.get("core:offset", 0))
    except (ValueError, OSError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"expected SigMF metadata in {path}, found something else: {error!r}") from error
    if num_channels < 1 or not 0 <= rate_hz < math.inf:
        raise ValueError(
            f"expected valid core:num_channels, core:sample_rate in {path}, found {num_channels}, {rate_hz}"
        )
    if min(header_bytes) < 0 or any(header_bytes[1:]) or trailing_bytes < 0:
        raise ValueError(f"expected core:header_bytes in the first capture only in {path}, found {header_bytes}")
    if Path(data_name).name != data_name:
        raise ValueError(f"expected core:dataset of {path} to be a file beside it, found {data_name!r}")
    data_path = path.with_name(data_name)
    if not data_path.is_file():
        raise ValueError(f"expected the samples of {path} in {data_path}, found no such file")
    # A recording that was retuned has no single centre frequency.
    frequency_hz = frequencies_hz.pop() if len(frequencies_hz) == 1 else 0.0
    rates = {"sampling_rate_hz": rate_hz, "center_frequency_hz": frequency_hz}
    recording = read_raw(data_path, datatype, num_channels, header_bytes[0], trailing_bytes, **rates)
    if recording.shape[1] < num_required:
        raise ValueError(
            f"expected at least {num_required} samples in {data_path} by the captures and annotations of {path.name}, "
            f"found {recording.shape[1]}: truncated"
        )
    if "core:sha512" in fields:
        with data_path.open("rb") as file:
            if hashlib.file_digest(file, "sha512").hexdigest() != fields["core:sha512"]:
                raise ValueError(f"expected the core:sha512 of {path} for {data_name}, found another hash")
    return recording


def read_csi(path: Path, chip: str | None = None) -> Recording:
    """A capture of a CSI tool, by its content; `sampling_rate_hz` is that of the packets."""
    tool = capture_tool(path)
    if tool is None:
        raise ValueError(f"expected a capture of nexmon, esp32, intel or atheros in {path}, found something else")
    capture = read_capture(path, tool, chip)
    amplitude = capture.amplitude
    return Recording(path, "csi", amplitude.shape, lambda: amplitude, capture.packet_rate_hz)


def is_recording(path: Path) -> bool:
    """False for tables and other files that share a suffix with captures of CSI."""
    return path.suffix.lower() not in CSI_SUFFIXES or capture_tool(path) is not None


def open_recording(
    path: str | Path,
    datatype: str | None = None,
    num_antennas: int = 1,
    kind: str | None = None,
    chip: str | None = None,
) -> Recording:
    """Open a recording by the suffix of its file name, and check that its content fits.

    Args:
        path: `.sigmf-meta` or `.sigmf-data`, `.npy`, `.wav`, `.bin`, `.cu8`, `.cs8`, `.cs16`, `.cf32`, or a capture of CSI:
            `.pcap` (nexmon), `.csv` (esp32), `.dat` (intel, atheros).
        kind: "iq", "image" or "csi", what an array in a `.npy` is; None: by its dtype and shape.
        chip: of a capture of nexmon: 4339, 43455c0, 4358 or 4366c0.
        datatype: SigMF name of the samples in a `.bin` (cu8, ci16_le, cf32_le, ...); checked for other raw binaries.
        num_antennas: interleaved in a raw binary or WAV; checked for the other formats.

    Raises:
        ValueError: the file is missing, incomplete, empty or not what its suffix says, or an argument does not fit it.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file():
        raise ValueError(f"expected a recording, found no file {path}")
    if suffix not in SUFFIXES:
        raise ValueError(
            f"expected one of {', '.join(SUFFIXES)}, found {path}; .npz, .mat and pictures: read them with "
            "`processing.recordings` of the repository (needs the extra 'train') and pass the arrays"
        )
    if num_antennas < 1:
        raise ValueError(f"expected num_antennas >= 1 for {path}, found {num_antennas}")
    if suffix in RAW_SUFFIXES:
        implied = RAW_SUFFIXES[suffix]
        if implied and datatype not in (None, implied):
            raise ValueError(f"expected datatype {implied} for {path}, found {datatype!r}")
        return read_raw(path, datatype or implied, num_antennas)
    if datatype is not None:
        raise ValueError(f"expected no datatype for {path}, found {datatype!r}: only raw binaries need it")
    if suffix in CSI_SUFFIXES:
        return read_csi(path, chip)
    if suffix == ".wav":
        return read_wav(path, num_antennas)
    recording = read_npy(path, kind) if suffix == ".npy" else read_sigmf(path)
    if recording.kind == "iq" and num_antennas not in (1, recording.shape[0]):
        raise ValueError(f"expected {num_antennas} antennas in {path}, found {recording.shape[0]}")
    return recording


def count_windows(num_samples: int, length: int, hop: int) -> int:
    """Windows that cover a whole recording: window i starts at `window_start`, the last one ends with the recording."""
    return 1 + max(0, -(-(num_samples - length) // hop))


def window_start(index: int, num_samples: int, length: int, hop: int) -> int:
    return min(index * hop, max(num_samples - length, 0))
