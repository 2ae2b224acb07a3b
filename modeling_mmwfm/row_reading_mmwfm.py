"""Rows of a data set by their numbers, without the loop over rows by which `datasets` cuts and joins them."""

from functools import cached_property

import numpy as np
from datasets import Dataset


class RowReader:
    """What `rows[index]` gives of a data set in NumPy format.

    Arrays of one shape are gathered from the Arrow data itself, in memory or memory-mapped, with one copy.
    """

    def __init__(self, rows: Dataset):
        self.rows = rows
        selected = rows._indices is not None  # then the n-th row is not the n-th of the Arrow data
        self.arrays = [] if selected else [name for name, feature in rows.features.items() if is_array(feature)]
        self.arrays = [name for name in self.arrays if not rows.data.column(name).null_count]
        others = [name for name in rows.column_names if name not in self.arrays]
        self.others = rows.select_columns(others) if others else None

    @cached_property
    def parts(self) -> dict[str, list[np.ndarray]]:
        """Views of the Arrow data, made where they are used: they cannot be sent to a worker without the data."""
        return {
            name: [part.to_numpy(zero_copy_only=True) for part in self.rows.data.column(name).chunks if len(part)]
            for name in self.arrays
        }

    def __getitem__(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of the rows `index` (B,), which is ascending."""
        columns = {} if self.others is None else self.others[index]
        return columns | {name: gather(parts, index) for name, parts in self.parts.items()}


def is_array(feature) -> bool:
    """Of one shape, in the type that the NumPy format leaves as it is."""
    shape = getattr(feature, "shape", None)
    return bool(shape) and None not in shape and feature.dtype == "float32"


def gather(parts: list[np.ndarray], index: np.ndarray) -> np.ndarray:
    """Rows `index`, ascending, of arrays that follow on each other."""
    found = np.empty((len(index), *parts[0].shape[1:]), parts[0].dtype)
    ends = np.cumsum([len(part) for part in parts])
    cuts = [0, *np.searchsorted(index, ends)]
    for part, end, first, last in zip(parts, ends, cuts, cuts[1:]):
        if first < last:  # every index is inside: "clip" only spares a buffer
            np.take(part, index[first:last] - (end - len(part)), 0, found[first:last], "clip")
    return found
