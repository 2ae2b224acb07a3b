"""Ultra-wideband channel impulse responses with positions -> an image-like data set.

    python -m processing.uwb_cir --input FILE --output DIR

FILE holds N measurements of the channel impulse response (CIR) from one tag to every anchor, at a known position:

    .npz    cir                 (N, anchors, taps): complex, or real magnitude >= 0 (linear, not dB)
            position            (N, 2) or (N, 3): x, y[, z] in metres
            group               (N,) text or whole numbers, optional
            sampling_rate_hz    one number or (N,): taps per second, optional

    .csv    one row for every measurement, with columns
            cir_<anchor>_<tap>  whole numbers, every tap of every anchor; real, or complex as 0.5+0.25j (or i)
            x_m, y_m[, z_m]     metres
            group, sampling_rate_hz     optional

Other arrays and columns are not read. A group stays in one split. Without `group` it is the position rounded to
centimetres: measurements repeated at one place stay together, but not those of neighbouring places along a walk. Name
the walk, room or day as `group` to hold that out. "paper" draws a fifth of the measurements whatever their group.

Column `image`: (1, anchors, taps) float32, the magnitude in the unit of the file. Anchors are rows of one channel,
so a patch one row high, or a picture resized by the processor, keeps an anchor's delays together along the width.
Column `position`: metres. `start` is the row in the file, and sampling_rate_hz is 0 where it is not known.
"""

import re
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from processing.converting import ConversionArguments, grouped_splits, held_out_windows, run_converter
from processing.recordings import ZIP_ERRORS
from processing.schema import image_features
from processing.writing import fingerprint, write_dataset

POSITION_AXES = ("x_m", "y_m", "z_m")
CIR_COLUMN = re.compile(r"cir_(\d+)_(\d+)")
BLOCK_ROWS = 1024  # rows of one unit of work


class Measurements(NamedTuple):
    """magnitude (N, anchors, taps) float32; position_m (N, 2 or 3) float64; group (N,) str; sampling_rate_hz (N,)."""

    magnitude: np.ndarray
    position_m: np.ndarray
    group: np.ndarray
    sampling_rate_hz: np.ndarray


def _read_npz(path):
    names = ("cir", "position", "group", "sampling_rate_hz")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names if name in archive}
    except (ValueError, OSError, EOFError, TypeError, AttributeError, *ZIP_ERRORS) as error:
        raise ValueError(
            f"expected a complete .npz file of arrays in {path}, found something else: {error}"
        ) from error


def _read_csv(path):
    try:
        table = pd.read_csv(path, dtype={"group": str}, index_col=False, encoding="utf-8-sig", skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a comma-separated table in {path}, found something else: {error}") from error
    columns = {}  # (anchor, tap) -> name
    for name in table.columns:
        match = CIR_COLUMN.fullmatch(name)
        if match is None and name.startswith("cir_"):
            raise ValueError(f"expected columns cir_<anchor>_<tap> of whole numbers once in {path}, found {name!r}")
        if match is not None:
            columns[int(match[1]), int(match[2])] = name
    anchors, taps = (sorted({key[axis] for key in columns}) for axis in (0, 1))
    if missing := [(anchor, tap) for anchor in anchors for tap in taps if (anchor, tap) not in columns]:
        raise ValueError(f"expected every tap of every anchor in {path}, found no cir_{missing[0][0]}_{missing[0][1]}")
    arrays = {}
    if columns:
        names = [columns[anchor, tap] for anchor in anchors for tap in taps]
        arrays["cir"] = _numbers(path, table[names]).reshape(len(table), len(anchors), len(taps))
    axes = [axis for axis in POSITION_AXES if axis in table]
    if axes:
        if axes not in (["x_m", "y_m"], ["x_m", "y_m", "z_m"]):
            raise ValueError(f"expected columns x_m, y_m[, z_m] in {path}, found {', '.join(axes)}")
        arrays["position"] = _numbers(path, table[axes])
    if "sampling_rate_hz" in table:
        arrays["sampling_rate_hz"] = _numbers(path, table["sampling_rate_hz"])
    if "group" in table:
        if table["group"].isna().any():
            row = int(table["group"].isna().argmax())
            raise ValueError(f"expected a group in every row of {path} or none, found blank in row {row}")
        arrays["group"] = table["group"].to_numpy(str)
    return arrays


def _numbers(path, table):
    """Cells as floats, or as complex where one is text such as 0.5+0.25i; blank cells are NaN."""
    try:
        return table.to_numpy(float)
    except ValueError:
        text = table.to_numpy(str)
    try:
        # MATLAB writes i. A blank cell is "nan", which has none.
        return np.char.replace(np.char.replace(text, " ", ""), "i", "j").astype(complex)
    except ValueError as error:
        raise ValueError(f"expected numbers in {path}, found other text: {error}") from error


# A process writes many blocks of one file.
@lru_cache(maxsize=1)
def read_measurements(path: Path) -> Measurements:
    """Read a file of measurements, see the module.

    Raises:
        ValueError: the file is of another format or truncated, an array or column is missing, of another shape or
            dtype, or a value is NaN, infinite or, for a magnitude or rate, negative.
    """
    if path.suffix.lower() not in (".npz", ".csv"):
        raise ValueError(f"expected a .npz or .csv file, found {path}")
    if not path.is_file():
        raise ValueError(f"expected measurements in {path}, found no such file")
    arrays = _read_npz(path) if path.suffix.lower() == ".npz" else _read_csv(path)
    for name, hint in (("cir", "cir (in a table cir_<anchor>_<tap>)"), ("position", "position (in a table x_m, y_m)")):
        if name not in arrays:
            raise ValueError(f"expected {hint} in {path}, found {', '.join(arrays) or 'nothing of use'}")
    cir, position = arrays["cir"], arrays["position"]
    if cir.ndim != 3 or cir.size == 0 or cir.dtype.kind not in "iufc":
        raise ValueError(f"expected cir as numbers (N, anchors, taps) in {path}, found {cir.dtype} {cir.shape}")
    if position.shape not in ((len(cir), 2), (len(cir), 3)) or position.dtype.kind not in "iuf":
        found = f"{position.dtype} {position.shape}"
        raise ValueError(f"expected position as numbers ({len(cir)}, 2 or 3), by cir, in {path}, found {found}")
    if cir.dtype.kind != "c" and cir.min() < 0:
        raise ValueError(
            f"expected complex cir or magnitudes >= 0, linear and not in dB, in {path}, found {cir.min():g}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        magnitude = np.abs(cir).astype(np.float32)
    for name, values in (("cir", magnitude), ("position", position)):
        finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        if not finite.all():
            raise ValueError(
                f"expected finite {name} in {path}, found NaN, blank or infinity in row {finite.argmin()}"
            )

    rate_hz = arrays.get("sampling_rate_hz", np.zeros(()))
    if rate_hz.shape not in ((), (len(cir),)) or rate_hz.dtype.kind not in "iuf":
        found = f"{rate_hz.dtype} {rate_hz.shape}"
        raise ValueError(f"expected sampling_rate_hz as one number or ({len(cir)},) in {path}, found {found}")
    if not (np.isfinite(rate_hz) & (rate_hz >= 0)).all():
        raise ValueError(f"expected finite sampling_rate_hz >= 0 in {path}, found {rate_hz.min():g}")
    if "group" in arrays:
        group = arrays["group"]
        if group.shape != (len(cir),) or group.dtype.kind not in "iuU":
            found = f"{group.dtype} {group.shape}"
            raise ValueError(f"expected group as text or whole numbers ({len(cir)},) in {path}, found {found}")
        group = group.astype(str)
    else:
        centimetres = np.round(100 * position).astype(np.int64).tolist()
        group = np.array([" ".join(map(str, place)) + " cm" for place in centimetres])
    return Measurements(magnitude, position, group, np.broadcast_to(rate_hz, len(cir)))


def _rows(path, split, rows):
    """Data set rows of one block."""
    measurements = read_measurements(path)
    for row in rows:
        yield {
            "image": measurements.magnitude[row][None],
            "position": measurements.position_m[row],
            "recording": path.name,
            "group": measurements.group[row],
            "sampling_rate_hz": measurements.sampling_rate_hz[row],
            "center_frequency_hz": 0.0,
            "start": row,
            "parameters": "{}",
            "source": path.name,
        }


def convert(
    input: str | Path, output: str | Path, protocol: str = "grouped", seed: int = 0, num_proc: int = 1
) -> Path:
    """Write the data set of a file of measurements.

    Args:
        input: .npz or .csv file, see the module.
        output: the folder to make.
        protocol: "grouped" draws a fifth of the groups for test and a tenth for validation; "paper" holds out a random
            fifth of the measurements.

    Returns:
        `output`. Column `image` (1, anchors, taps) float32, `position` (2,) or (3,) float32 in metres.

    Raises:
        ValueError: the file is not what it must be, or has too few groups; nothing is written then.
    """
    ConversionArguments(str(input), str(output), protocol, seed, num_proc)
    path = Path(input)
    read_measurements.cache_clear()  # the file may have changed
    measurements = read_measurements(path)
    if protocol == "grouped":
        split_of = grouped_splits({str(group): set() for group in measurements.group}, seed)
        splits = np.array([split_of[group] for group in measurements.group])
    else:
        held_out = held_out_windows(seed, path.name, len(measurements.group))
        splits = np.where(held_out, "validation", "train")
    items = {}
    for split in ("train", "validation", "test") if protocol == "grouped" else ("train", "validation"):
        rows = np.flatnonzero(splits == split).tolist()
        items[split] = [rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)]
    recipe = {
        "generator": "processing.uwb_cir",
        "protocol": protocol,
        "seed": seed,
        "files_sha256": fingerprint([path], path.parent),
    }
    _, num_anchors, num_taps = measurements.magnitude.shape
    axes = POSITION_AXES[: measurements.position_m.shape[1]]
    features = image_features(1, num_anchors, num_taps, position_axes=axes)
    return write_dataset(output, features, items, partial(_rows, path), recipe, num_proc)


def main(arguments: list[str] | None = None):
    run_converter(convert, ConversionArguments, arguments, description=__doc__.splitlines()[0])


if __name__ == "__main__":
    main()
