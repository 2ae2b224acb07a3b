"""Read one recording: SigMF, NumPy, raw binary, WAV, MATLAB or an image file -> IQ samples or an image-like array.

Long files are memory-mapped: `Recording.window` reads and converts only the samples that it returns.
Every error is a `ValueError` that names the file, what was expected and what was found.
"""

import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import scipy.io
import sigmf
from PIL import Image
from scipy.io import wavfile

from modeling_mmwfm.csi_captures_mmwfm import CSI_SUFFIXES
from modeling_mmwfm.recordings_mmwfm import describe, read_csi

# SigMF name of a complex sample -> dtype of its I and of its Q, which are interleaved in the file.
DATATYPES = {"ci8": np.dtype("i1"), "cu8": np.dtype("u1")} | {
    f"c{kind}{8 * size}_{order}": np.dtype(f"{'<' if order == 'le' else '>'}{kind}{size}")
    for kind, size in [("i", 2), ("u", 2), ("i", 4), ("u", 4), ("f", 4), ("f", 8)]
    for order in ("le", "be")
}
MAT_CLASSES = ("double", "single", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
# What the libraries raise on damaged content, beside ValueError, OSError and EOFError.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, tokenize.TokenError, RuntimeError)
WAV_ERRORS = (wavfile.WavFileWarning, struct.error, UnboundLocalError, ZeroDivisionError)
MAT_ERRORS = (LookupError, TypeError, RuntimeError, zlib.error, scipy.io.matlab.MatReadError)
RAW_SUFFIXES = {".bin": None, ".cu8": "cu8", ".cs8": "ci8", ".cs16": "ci16_le", ".cf32": "cf32_le"}
IMAGE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}
# What Pillow calls a picture -> what it is converted to and the value of white.
IMAGE_MODES = {"1": ("L", 255), "L": ("L", 255), "LA": ("L", 255)} | {
    **dict.fromkeys(["P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"], ("RGB", 255)),
    **dict.fromkeys(["I;16", "I;16L", "I;16B"], (None, 65535)),
}


@dataclass(frozen=True)
class Recording:
    """One recording of IQ samples or image-like data; time is the last axis.

    Attributes:
        kind: "iq", "image" or "csi".
        raw: as stored, possibly memory-mapped. IQ: complex (A, T) or real (A, T, 2), I then Q; image: real (C, H, W);
            CSI: (A, subcarriers, packets).
        files: the file that was asked for, then the others that belong to it.
        sampling_rate_hz, center_frequency_hz: 0 where the file does not say.
    """

    kind: str
    raw: np.ndarray
    files: tuple[Path, ...]
    sampling_rate_hz: float = 0.0
    center_frequency_hz: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `values`: (A, T) antennas x samples, (C, H, W), or (A, subcarriers, packets)."""
        return self.raw.shape[: 2 if self.kind == "iq" else 3]

    @property
    def values(self) -> np.ndarray:
        """The whole recording, see `window`."""
        return self.window(0, self.shape[-1])

    def window(self, start: int, length: int) -> np.ndarray:
        """Samples (columns, packets) start to start + length: IQ complex64 (A, length), image float32 (C, H, length),
        CSI as complex64 or float32 (A, subcarriers, length).

        IQ integers become full scale +-1: for 8 bits (x - 127.5) / 128 if unsigned, x / 128 if
        signed, and so on. Integers of an image-like array keep their value.

        Raises:
            ValueError: a value is NaN or infinite (also after the conversion to 32 bits).
        """
        raw = self.raw[:, start : start + length] if self.kind == "iq" else self.raw[..., start : start + length]
        with np.errstate(invalid="ignore", over="ignore"):
            if np.iscomplexobj(raw):
                values = np.array(raw, dtype=np.complex64, order="C")
            elif self.kind != "iq":
                values = np.array(raw, dtype=np.float32, order="C")
            else:
                pairs = np.array(_full_scale(raw), dtype=np.float32, order="C")
                values = pairs.view(np.complex64)[..., 0]
        if not np.isfinite(values).all():
            raise ValueError(f"expected finite values in {self.files[0]}, found NaN or infinity after sample {start}")
        return values


@contextmanager
def _reading(path, expected, *errors):
    """Turn what a library raises about the content of a file into a ValueError that names the file."""
    try:
        yield
    except (ValueError, OSError, EOFError, *errors) as error:
        raise ValueError(f"expected {expected} in {path}, found something else: {error}") from error


def _full_scale(raw):
    """Integers -> floats in [-1, 1]; floats as they are."""
    if raw.dtype.kind == "f":
        return raw
    half = 2.0 ** (8 * raw.dtype.itemsize - 1)
    floats = raw.astype(np.result_type(raw.dtype, np.float32))  # float64 where float32 would round
    return (floats - (half - 0.5)) / half if raw.dtype.kind == "u" else floats / half


def _from_array(path, array, kind=None, **attributes):
    """Tell IQ, image-like data and CSI by dtype and shape, or take them for `kind`."""
    kind, arrange = describe(path, array, kind)
    return Recording(kind, arrange(array), (path,), **attributes)


def _map_raw(path, datatype, num_antennas, skip_bytes=0, trailing_bytes=0):
    """Memory map (A, T, 2) of interleaved samples: antenna by antenna at each instant, I then Q."""
    component = DATATYPES[datatype]
    sample_bytes = 2 * component.itemsize * num_antennas
    data_bytes = path.stat().st_size - skip_bytes - trailing_bytes
    if data_bytes <= 0:
        raise ValueError(f"expected samples in {path}, found an empty file ({max(data_bytes, 0)} bytes of samples)")
    if data_bytes % sample_bytes:
        raise ValueError(
            f"expected whole samples of {sample_bytes} bytes ({datatype}, {num_antennas} antennas) in {path}, "
            f"found {data_bytes} bytes: truncated, or another datatype"
        )
    shape = (data_bytes // sample_bytes, num_antennas, 2)
    return np.memmap(path, component, mode="r", offset=skip_bytes, shape=shape).transpose(1, 0, 2)


def read_raw(path: Path, datatype: str | None = None, num_antennas: int = 1) -> Recording:
    """Interleaved binary IQ. The suffix gives the datatype, but for `.bin`."""
    implied = RAW_SUFFIXES[path.suffix.lower()]
    if datatype is None and implied is None:
        raise ValueError(f"expected a datatype for {path}, one of {', '.join(sorted(DATATYPES))}; found none")
    if datatype is not None and (datatype not in DATATYPES or implied not in (None, datatype)):
        expected = implied or ", ".join(sorted(DATATYPES))
        raise ValueError(f"expected datatype {expected} for {path}, found {datatype!r}")
    return Recording("iq", _map_raw(path, datatype or implied, num_antennas), (path,))


def read_sigmf(path: Path) -> Recording:
    """SigMF recording, by its `.sigmf-meta` (or `.sigmf-data`) file; checks the hash and the extent of the samples."""
    path = path.with_suffix(".sigmf-meta")
    with _reading(path, "SigMF metadata", sigmf.error.SigMFError, KeyError, TypeError, AttributeError):
        meta = sigmf.SigMFFile(metadata=path.read_bytes())
        data_path = path.with_name(meta.get_global_field("core:dataset") or f"{path.stem}.sigmf-data")
        captures, annotations = meta.get_captures(), meta.get_annotations()
        datatype = meta.get_global_field("core:datatype")
        num_channels = int(meta.get_global_field("core:num_channels"))
        sampling_rate_hz = float(meta.get_global_field("core:sample_rate", 0))
        frequencies_hz = {float(capture.get("core:frequency", 0)) for capture in captures}
        header_bytes = [int(capture.get("core:header_bytes", 0)) for capture in captures] or [0]
        trailing_bytes = int(meta.get_global_field("core:trailing_bytes", 0))
        ends = [entry["core:sample_start"] + entry.get("core:sample_count", 0) for entry in annotations]
        ends += [capture["core:sample_start"] + 1 for capture in captures]
        num_required = max(ends, default=0) - int(meta.get_global_field("core:offset"))
    if datatype not in DATATYPES:
        raise ValueError(f"expected a core:datatype of {', '.join(sorted(DATATYPES))} in {path}, found {datatype!r}")
    if num_channels < 1 or not 0 <= sampling_rate_hz < math.inf:
        raise ValueError(
            f"expected valid core:num_channels, core:sample_rate in {path}, found {num_channels}, {sampling_rate_hz}"
        )
    if min(header_bytes) < 0 or any(header_bytes[1:]) or trailing_bytes < 0:
        raise ValueError(f"expected core:header_bytes in the first capture only in {path}, found {header_bytes}")
    if not data_path.is_file():
        raise ValueError(f"expected the samples of {path} in {data_path}, found no such file")
    raw = _map_raw(data_path, datatype, num_channels, header_bytes[0], trailing_bytes)
    if raw.shape[1] < num_required:
        raise ValueError(
            f"expected at least {num_required} samples in {data_path} by the captures and annotations of {path.name}, "
            f"found {raw.shape[1]}: truncated"
        )
    if meta.get_global_field("core:sha512") is not None:
        meta.data_file = data_path
        try:
            meta.calculate_hash()
        except sigmf.error.SigMFFileError as error:
            raise ValueError(f"expected the core:sha512 of {path} for {data_path.name}, found another hash") from error
    # A recording that was retuned has no single centre frequency.
    center_frequency_hz = frequencies_hz.pop() if len(frequencies_hz) == 1 else 0.0
    return Recording("iq", raw, (path, data_path), sampling_rate_hz, center_frequency_hz)


def read_npy(path: Path, kind: str | None = None) -> Recording:
    """`.npy`: complex (T,) or (A, T), real (T, 2) or (A, T, 2), or image-like (H, W) or (C, H, W)."""
    with _reading(path, "a complete .npy file of numbers", tokenize.TokenError):
        array = np.lib.format.open_memmap(path, mode="r")
    return _from_array(path, array, kind)


def _choose(path, names, variable):
    """The one array to read."""
    found = ", ".join(names) or "none"
    if variable is not None and variable not in names:
        raise ValueError(f"expected an array {variable!r} in {path}, found {found}")
    if variable is None and len(names) != 1:
        raise ValueError(f"expected one array in {path}, or its name given as variable; found {found}")
    return variable or names[0]


def read_npz(path: Path, variable: str | None = None, kind: str | None = None) -> Recording:
    """`.npz`: the array `variable`, as in a `.npy` file."""
    with _reading(path, "a .npz file", *ZIP_ERRORS), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    name = _choose(path, names, variable)
    with _reading(path, "an array of numbers", *ZIP_ERRORS):
        with np.load(path, allow_pickle=False) as arrays:
            array = np.asarray(arrays[name])
    return _from_array(path, array, kind)


def read_mat(path: Path, variable: str | None = None, kind: str | None = None) -> Recording:
    """`.mat`, also v7.3 (HDF5): the array `variable` with the shape it has in MATLAB; a column vector is one antenna.

    Without `variable`, text, cells and scalars (a sampling rate ...) beside the array do not count.
    """
    with _reading(path, "a MATLAB file", *MAT_ERRORS):
        is_v73 = h5py.is_hdf5(path)
        variables = _whos_v73(path) if is_v73 else scipy.io.whosmat(path)
    shapes = {name: shape for name, shape, matlab_class in variables if matlab_class in MAT_CLASSES}
    names = [name for name, shape in shapes.items() if variable is not None or math.prod(shape) != 1]
    name = _choose(path, names, variable)
    with _reading(path, "a complete MATLAB file", *MAT_ERRORS):
        array = _load_v73(path, name) if is_v73 else scipy.io.loadmat(path, variable_names=[name])[name]
    if array.dtype.kind == "c" and array.ndim == 2 and array.shape[1] == 1:
        array = array.T
    return _from_array(path, array, kind)


def _whos_v73(path):
    """(name, shape, MATLAB class) of every data set, like `scipy.io.whosmat`; HDF5 holds the axes in reverse order."""
    with h5py.File(path, "r") as file:
        nodes = {name: node for name, node in file.items() if isinstance(node, h5py.Dataset)}
        classes = {name: np.bytes_(node.attrs.get("MATLAB_class", "double")).decode() for name, node in nodes.items()}
        return [(name, node.shape[::-1], classes[name]) for name, node in nodes.items()]


def _load_v73(path, name):
    with h5py.File(path, "r") as file:
        array = file[name][()].T
        if "MATLAB_empty" in file[name].attrs:  # what is stored then is the shape
            return np.empty((0, 0))
    if array.dtype.names == ("real", "imag"):
        return array["real"] + 1j * array["imag"]
    return array


def read_wav(path: Path, num_antennas: int = 1) -> Recording:
    """IQ `.wav`: channels I, Q (of every antenna in turn); 8, 16, 24 and 32 bit integers or floats."""
    with _reading(path, "a complete .wav file", *WAV_ERRORS), warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # receivers add chunks of their own
        warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
        try:
            rate_hz, samples = wavfile.read(path, mmap=True)
        except ValueError:  # 24 bit cannot be mapped
            rate_hz, samples = wavfile.read(path)
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    if channels != 2 * num_antennas:
        raise ValueError(f"expected {2 * num_antennas} channels (I and Q) in {path}, found {channels}")
    pairs = samples.reshape(len(samples), num_antennas, 2).transpose(1, 0, 2)
    return _from_array(path, pairs, sampling_rate_hz=float(rate_hz))


def read_image(path: Path) -> Recording:
    """Picture -> (1, H, W) gray or (3, H, W) colour in [0, 1]; transparency is dropped."""
    expected = IMAGE_FORMATS[path.suffix.lower()]
    with (
        _reading(path, f"a complete {expected} picture", SyntaxError, TypeError, Image.DecompressionBombError),
        Image.open(path, formats=[expected]) as picture,
    ):
        found, num_frames = picture.mode, getattr(picture, "n_frames", 1)
        mode, white = IMAGE_MODES.get(found, (None, 1))
        pixels = np.asarray(picture.convert(mode) if mode else picture, dtype=np.float32) / white
    if found not in IMAGE_MODES or num_frames != 1:
        raise ValueError(
            f"expected one gray or colour picture of 8 or 16 bits in {path}, found mode {found}, {num_frames} frames"
        )
    return Recording("image", pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), (path,))


def read_recording(
    path: str | Path,
    *,
    datatype: str | None = None,
    num_antennas: int = 1,
    variable: str | None = None,
    kind: str | None = None,
    chip: str | None = None,
) -> Recording:
    """Read a recording by the suffix of its file name.

    Args:
        path: `.sigmf-meta`, `.npy`, `.npz`, `.bin`, `.cu8`, `.cs8`, `.cs16`, `.cf32`, `.wav`, `.mat`, a picture or a
            capture of CSI: `.pcap` (nexmon), `.csv` (esp32), `.dat` (intel, atheros).
        datatype: SigMF name of the samples in a raw binary (cu8, ci16_le, cf32_le, ...); needed for `.bin`.
        num_antennas: antennas interleaved in a raw binary or WAV; checked against the file for the other formats.
        variable: the array to take from a `.npz` or `.mat` file that holds several.
        kind: "iq", "image" or "csi", what an array is; None: by its dtype and shape.
        chip: of a capture of nexmon: 4339, 43455c0, 4358 or 4366c0.

    Raises:
        ValueError: the file is missing, incomplete, empty or not what its suffix says, or an argument does not fit it.
            NaN and infinity are found when values are read.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file():
        raise ValueError(f"expected the recording {path}, found no such file; compare file_name in metadata.csv")
    if num_antennas < 1:
        raise ValueError(f"expected num_antennas >= 1 for {path}, found {num_antennas}")
    if datatype is not None and suffix not in RAW_SUFFIXES:
        raise ValueError(f"expected no datatype for {path}, found {datatype!r}: only raw binaries need it")
    if variable is not None and suffix not in (".npz", ".mat"):
        raise ValueError(f"expected no variable for {path}, found {variable!r}: only .npz and .mat name their arrays")
    if suffix in RAW_SUFFIXES:
        return read_raw(path, datatype, num_antennas)
    if suffix in IMAGE_FORMATS:
        return read_image(path)
    if suffix in CSI_SUFFIXES:
        capture = read_csi(path, chip)
        return Recording("csi", capture.open_raw(), (path,), capture.sampling_rate_hz)
    if suffix in (".npz", ".mat"):
        recording = (read_npz if suffix == ".npz" else read_mat)(path, variable, kind)
    elif suffix == ".wav":
        recording = read_wav(path, num_antennas)
    elif suffix == ".npy":
        recording = read_npy(path, kind)
    elif suffix in (".sigmf-meta", ".sigmf-data"):
        recording = read_sigmf(path)
    else:
        known = [".sigmf-meta", ".npy", ".npz", *RAW_SUFFIXES, ".wav", ".mat", *IMAGE_FORMATS, *CSI_SUFFIXES]
        raise ValueError(f"expected one of {', '.join(known)}, found {path.name!r} ({path})")
    if recording.kind == "iq" and num_antennas not in (1, recording.shape[0]):
        raise ValueError(f"expected {num_antennas} antennas in {path}, found {recording.shape[0]}")
    return recording
