"""Rows of HDF5 files, read in slabs of bounded size."""

from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

SLAB_BYTES = 2**25  # read at once


@contextmanager
def open_hdf5(path: Path):
    """An HDF5 file to read; what the library raises about its content becomes a ValueError that names it."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise ValueError(f"expected a complete HDF5 file in {path}, found something else: {error}") from error


def slab_rows(dataset: h5py.Dataset, row_axis: int) -> int:
    """How many rows to read at once: at most `SLAB_BYTES`, but no less than a chunk of the file."""
    row_bytes = dataset.size // dataset.shape[row_axis] * dataset.dtype.itemsize
    return max(1, SLAB_BYTES // row_bytes, dataset.chunks[row_axis] if dataset.chunks else 0)


def slabs(splits: np.ndarray, split: str, num_rows: int) -> list[dict]:
    """Runs of `num_rows` rows, from "start" to "stop", with the numbers of the "rows" that belong to `split`."""
    items = []
    for start in range(0, len(splits), num_rows):
        rows = start + np.flatnonzero(splits[start : start + num_rows] == split)
        if len(rows):
            items.append({"start": start, "stop": min(start + num_rows, len(splits)), "rows": rows.tolist()})
    return items


def read_float32(dataset: h5py.Dataset, start: int, stop: int, path: Path, reverse: bool = False) -> np.ndarray:
    """Rows start to stop of a data set as (stop - start, ...) float32; `reverse` where its axes are in reverse.

    Raises:
        ValueError: a value is NaN or infinite (also after the conversion to 32 bits).
    """
    raw = dataset[..., start:stop].T if reverse else dataset[start:stop]
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(raw, dtype=np.float32)
    if not np.isfinite(values).all():
        row = start + int(np.flatnonzero(~np.isfinite(values).all(axis=tuple(range(1, values.ndim))))[0])
        raise ValueError(f"expected finite {dataset.name} in {path}, found NaN or infinity in row {row}")
    return values
