"""RadioML 2016.10A or RML22 (modulation classification) -> an IQ data set.

    python -m processing.radioml --input RML2016.10a_dict.pkl --output DIR

The file is a Python pickle of {(modulation, snr_db): (n, 2, 128) float32}, I then Q; keys may be text or bytes, as
Python 2 or 3 wrote them. A pickle can run any program when it is loaded, so that this one is read by an unpickler of
its own: it knows plain containers, NumPy arrays and NumPy scalars, builds those itself from their bytes, and refuses
the rest.

Neither set says which rows were cut from one simulated transmission. The most that can be done is to keep neighbours
together: a group is a block of 100 consecutive rows of one (modulation, SNR), and "grouped" draws such blocks from
every modulation at every SNR. Rows of one transmission that lie in two blocks may still be on both sides. "paper"
draws a fifth of the rows.

Sources: O'Shea and West, "Radio Machine Learning Dataset Generation with GNU Radio", GNU Radio Conference 2016;
Sathyanarayanan, Gerstoft and El Gamal, "RML22: Realistic Dataset Generation for Wireless Modulation Classification",
IEEE Transactions on Wireless Communications 22(11), 2023.
"""

import hashlib
import json
import math
import pickle
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from processing.converting import ConversionArguments, grouped_splits, plan_items, run_converter, wanted_windows
from processing.schema import iq_features
from processing.writing import write_dataset

WINDOW_LENGTH = 128
BLOCK_ROWS = 100
RADIOML_2016_10A_RATE_HZ = 1e6
PLAIN_DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


@dataclass
class RadiomlArguments(ConversionArguments):
    """What to read, and what the file does not say."""

    sampling_rate_hz: float | None = field(
        default=None, metadata={"help": "Default: 1e6 for a file with 2016.10a in its name, otherwise 0 (unknown)."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.sampling_rate_hz is not None and not 0 <= self.sampling_rate_hz < math.inf:
            raise ValueError(f"expected sampling_rate_hz >= 0, found {self.sampling_rate_hz}")


def _bytes(value):
    """Python 2 wrote bytes as text; read as Latin-1 they keep their values."""
    return value.encode("latin-1") if isinstance(value, str) else value


def _text(value):
    return value.decode("latin-1") if isinstance(value, bytes) else value


class _Dtype:
    """Stands in for `numpy.dtype`."""

    def __init__(self, name, align=False, copy=False):
        if _text(name) not in PLAIN_DTYPES:
            raise pickle.UnpicklingError(f"NumPy values of type {name!r}")
        self.dtype = np.dtype(_text(name))

    def __setstate__(self, state):
        if _text(state[1]) == ">":
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    """Stands in for `numpy.ndarray`: made whole by `numpy.core.numeric._frombuffer`, or filled by its state."""

    values = None

    def __init__(self, data, dtype, shape, order="C"):
        self.values = np.frombuffer(_bytes(data), dtype.dtype).reshape(shape, order=order)

    def __setstate__(self, state):
        _, shape, dtype, is_fortran, data = state
        self.__init__(data, dtype, shape, "F" if is_fortran else "C")


def _reconstruct(array_type, shape, typecode):
    return _Array.__new__(_Array)


def _scalar(dtype, data):
    return _Array(data, dtype, ()).values.item()


def _encode(text, encoding):
    """Python 3 wrote bytes so in the old protocols."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return _bytes(text)


# (module, name) in the file -> what is used in its place: nothing of the file's choice is imported or called.
STAND_INS = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _encode,
}
for core in ("numpy.core", "numpy._core"):  # before NumPy 2 and since
    STAND_INS[f"{core}.multiarray", "_reconstruct"] = _reconstruct
    STAND_INS[f"{core}.multiarray", "scalar"] = _scalar
    STAND_INS[f"{core}.numeric", "_frombuffer"] = _Array


class RestrictedUnpickler(pickle.Unpickler):
    """Plain containers and `STAND_INS` only."""

    def find_class(self, module, name):
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"the global {module}.{name}, which is not run")
        stand_in = STAND_INS[module, name]
        return lambda *arguments: stand_in(*arguments)  # its own: a pickle may set attributes of what it names


def read_pickle(path: Path) -> dict[tuple[str, int | float], np.ndarray]:
    """(modulation, SNR in dB) -> (n, 2, 128) float32 in either byte order, sorted; nothing in the file is run.

    Raises:
        ValueError: the file is incomplete, names a global other than `STAND_INS`, or is no such dict.
    """
    if not path.is_file():
        raise ValueError(f"expected the pickle file {path}, found no such file")
    try:
        with open(path, "rb") as file:
            content = RestrictedUnpickler(file, encoding="latin-1").load()
    except Exception as error:  # a damaged pickle may raise any
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"expected a pickled dict of NumPy arrays in {path}, found something else: {reason}"
        ) from error
    if not isinstance(content, dict) or not content:
        raise ValueError(
            f"expected a dict with entries in {path}, found {type(content).__name__}, empty or another type"
        )
    arrays = {}
    for key, value in content.items():
        is_pair = isinstance(key, tuple) and len(key) == 2
        modulation, snr_db = (_text(key[0]), key[1]) if is_pair else (None, None)
        if not isinstance(modulation, str) or type(snr_db) not in (int, float) or not math.isfinite(snr_db):
            raise ValueError(f"expected keys (modulation, SNR in dB) in {path}, found {key!r}")
        array = value.values if isinstance(value, _Array) else None
        if array is None or array.dtype.newbyteorder("=") != np.float32:
            found = f"a {type(value).__name__}" if array is None else f"{array.dtype} {array.shape}"
            raise ValueError(f"expected an array of float32 for {key} in {path}, found {found}")
        if array.ndim != 3 or array.shape[0] == 0 or array.shape[1:] != (2, WINDOW_LENGTH):
            raise ValueError(f"expected shape (n, 2, {WINDOW_LENGTH}) for {key} in {path}, found {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"expected finite values for {key} in {path}, found NaN or infinity")
        if (modulation, snr_db) in arrays:
            raise ValueError(f"expected every (modulation, SNR) once in {path}, found {key} as text and as bytes")
        arrays[modulation, snr_db] = array
    return dict(sorted(arrays.items()))


@lru_cache(maxsize=1)
def _read_once(path, stamp):
    """Blocks of a file are read one after another, and a pickle opens only as a whole."""
    return read_pickle(path)


def _stamp(path):
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None


def _rows(path, stamp, protocol, seed, sampling_rate_hz, split, item):
    modulation, snr_db = item["key"]
    block = _read_once(path, stamp)[modulation, snr_db][item["first"] : item["first"] + BLOCK_ROWS]
    for i in wanted_windows(protocol, split, seed, item["group"], len(block)):
        yield {
            "iq": block[i].T[None].astype(np.float32),
            "label": modulation,
            "recording": f"{modulation}/{snr_db}",
            "group": item["group"],
            "sampling_rate_hz": sampling_rate_hz,
            "center_frequency_hz": 0.0,  # simulated at baseband
            "start": (item["first"] + int(i)) * WINDOW_LENGTH,
            "parameters": json.dumps({"snr_db": snr_db}),
            "source": path.name,
        }


def convert(
    input: str | Path,
    output: str | Path,
    protocol: str = "grouped",
    seed: int = 0,
    num_proc: int = 1,
    sampling_rate_hz: float | None = None,
) -> Path:
    """Write the data set of a file RML2016.10a_dict.pkl or RML22.01A.

    Returns:
        `output`. Column `iq` (1, 128, 2) float32, in the units of the file; `label` one of the modulations in the
        file, sorted; "snr_db" is in `parameters`; `recording` is "<modulation>/<SNR>" and `start` its row times 128.

    Raises:
        ValueError: the file or an option is not what it must be; nothing is run or written then.
    """
    RadiomlArguments(str(input), str(output), protocol, seed, num_proc, sampling_rate_hz)
    path = Path(input)
    if sampling_rate_hz is None:
        sampling_rate_hz = RADIOML_2016_10A_RATE_HZ if "2016.10a" in path.name.lower() else 0.0
    stamp = _stamp(path)
    arrays = _read_once(path, stamp)
    items = []
    for key, array in arrays.items():
        for first in range(0, len(array), BLOCK_ROWS):
            group = f"{key[0]}/{key[1]}/{first // BLOCK_ROWS}"
            items.append({"key": key, "group": group, "first": first, "rows": len(array[first : first + BLOCK_ROWS])})
    split_of = grouped_splits({item["group"]: {item["key"]} for item in items}, seed) if protocol == "grouped" else {}
    planned = plan_items(protocol, seed, items, split_of, lambda item: (item["group"], item["rows"]))
    recipe = {
        "generator": "processing.radioml",
        "protocol": protocol,
        "seed": seed,
        "sampling_rate_hz": sampling_rate_hz,
        "files_sha256": hashlib.sha256(json.dumps([path.name, *stamp]).encode()).hexdigest(),
    }
    features = iq_features(1, WINDOW_LENGTH, label_names=sorted({modulation for modulation, _ in arrays}))
    rows = partial(_rows, path, stamp, protocol, seed, sampling_rate_hz)
    try:
        return write_dataset(output, features, planned, rows, recipe, num_proc)
    finally:
        _read_once.cache_clear()


def main(arguments: list[str] | None = None):
    run_converter(convert, RadiomlArguments, arguments)


if __name__ == "__main__":
    main()
