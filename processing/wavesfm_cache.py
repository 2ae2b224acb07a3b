"""HDF5 caches of the authors of arXiv 2511.15162 -> a data set of IQ or image-like rows.

    python -m processing.wavesfm_cache --input rml.h5 --output DIR

A cache holds `sample` (N, 2, A, T), I and Q of A antennas, or `image`, `csi` or `features` (N, C, H, W), and `label`,
class indices (N,) or coordinates (N, 2 or 3). Most caches hold values that were already resized and normalised with
the statistics that their attributes give (`mean` or `mu`, `std`, `min_val`, `max_val`). They are written as they are
stored: the attributes, `labels` and `class_weights` among them, go into generation.json and nothing is done with them,
except that coordinates scaled to [-1, 1] by `coord_nominal_min` and `coord_nominal_max` become metres again. Other
data sets of one value per row (`snr`, `band`, `source_file` ...) go into `parameters`.

A cache does not say what was recorded together. "grouped" therefore takes for the group of a row the first of
- the data set `group` or `recording`, if there is one;
- the position, rounded to a millimetre, if the target is one: caches repeat positions at several SNRs;
- the data set `source_file`, if there is one;
- its block of `block_size` consecutive rows. This is a guess: a recording of more rows, or one that is not stored in
  consecutive rows, can still be on both sides of a split, and the figures are then too good.
"""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from processing.converting import (
    POSITION_AXES,
    ConversionArguments,
    grouped_splits,
    position_groups,
    run_converter,
    split_rows,
)
from processing.hdf5 import open_hdf5, read_float32, slab_rows, slabs
from processing.schema import image_features, iq_features
from processing.writing import fingerprint, write_dataset

VALUES = ("sample", "image", "csi", "features")


@dataclass
class WavesfmCacheArguments(ConversionArguments):
    """What to read and how to group it."""

    block_size: int = field(
        default=100, metadata={"help": "Consecutive rows of a group, where the cache does not name groups."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.block_size < 1:
            raise ValueError(f"expected block_size >= 1, found {self.block_size}")


def _attribute(value):
    """Attribute -> JSON value; the authors keep lists as JSON text."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, list):
        return [_attribute(entry) for entry in value]
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value if isinstance(value, bool | int | float) else str(value)


def _column(dataset, path):
    """One value per row: (N,) numbers, or texts as str."""
    if dataset.dtype.kind == "f":
        return read_float32(dataset, 0, len(dataset), path)
    values = dataset[()]
    if dataset.dtype.kind in "OS":
        try:
            return np.array([value.decode() for value in values.tolist()], dtype=object)
        except (UnicodeDecodeError, AttributeError) as error:
            raise ValueError(f"expected UTF-8 text in {dataset.name} of {path}, found something else") from error
    return values


def _classes(label, attributes, path):
    """Class names: those of the attribute `labels`, or the numbers."""
    names = attributes.get("labels")
    if names is None:
        names = [str(index) for index in range(int(label.max()) + 1)] if label.min() >= 0 else []
    if not isinstance(names, list) or len(set(map(str, names))) != len(names):
        raise ValueError(f"expected a list of different class names in the attribute labels of {path}, found {names}")
    if label.min() < 0 or label.max() >= len(names):
        found = f"{label.min()} to {label.max()}"
        raise ValueError(f"expected label of 0 to {len(names) - 1} ({len(names)} classes) in {path}, found {found}")
    return [str(name) for name in names]


def _positions(label, attributes, path):
    """Coordinates (N, D) -> metres: [-1, 1] spans the box of the attributes, where there is one."""
    ends = [attributes.get(f"coord_nominal_{end}") for end in ("min", "max")]
    if ends == [None, None]:
        return label
    try:
        low, high = np.array(ends, dtype=np.float64).reshape(2, label.shape[1])
    except (ValueError, TypeError):
        low = high = np.zeros(1)
    if not (high > low).all():
        raise ValueError(
            f"expected coord_nominal_min below coord_nominal_max, {label.shape[1]} numbers each, "
            f"in {path}, found {ends}"
        )
    return low + (label + 1) / 2 * (high - low)


def _groups(num_rows, columns, positions_m, block_size):
    """Group of every row, see the top of this file."""
    for name in ("group", "recording"):
        if name in columns:
            return [str(value) for value in columns[name]]
    if positions_m is not None:
        return position_groups(positions_m)
    if "source_file" in columns:
        return [str(value) for value in columns["source_file"]]
    return [f"rows from {row // block_size * block_size}" for row in range(num_rows)]


def _values(file, path):
    """Name and data set of the values, after checking what is there and its shapes."""
    arrays = {name: node for name, node in file.items() if isinstance(node, h5py.Dataset)}
    found = ", ".join(f"{name} {node.dtype} {node.shape}" for name, node in arrays.items()) or "no data set"
    names = [name for name in VALUES if name in arrays]
    if len(names) != 1 or "label" not in arrays:
        raise ValueError(f"expected one of {', '.join(VALUES)}, and label, in {path}, found {found}")
    values, label = arrays[names[0]], arrays["label"]
    if values.dtype.kind != "f" or values.ndim != 4 or values.size == 0:
        raise ValueError(f"expected floating-point numbers of four axes in {names[0]} of {path}, found {found}")
    if names[0] == "sample" and values.shape[1] != 2:
        raise ValueError(f"expected sample (N, 2, A, T) in {path}, found {found}")
    shapes = {"i": [(len(values),)], "u": [(len(values),)], "f": [(len(values), 2), (len(values), 3)]}
    if label.shape not in shapes.get(label.dtype.kind, []):
        raise ValueError(f"expected label of integers (N,) or coordinates (N, 2 or 3) in {path}, found {found}")
    return names[0], values


def _plan(path, block_size):
    """(schema, columns of every row but the values, rows of a slab, attributes), after reading all of it once."""
    if not path.is_file():
        raise ValueError(f"expected one HDF5 cache as input, found no file {path}")
    with open_hdf5(path) as file:
        name, values = _values(file, path)
        shape, num_rows = values.shape, slab_rows(values, 0)
        for start in range(0, shape[0], num_rows):
            read_float32(values, start, min(start + num_rows, shape[0]), path)
        # The root is a folder on the machine that made the cache.
        attributes = {key: _attribute(value) for key, value in file.attrs.items() if key != "root"}
        is_class = file["label"].dtype.kind in "iu"
        label = file["label"][()] if is_class else read_float32(file["label"], 0, shape[0], path)
        columns = {
            key: _column(node, path)
            for key, node in file.items()
            if isinstance(node, h5py.Dataset)
            and key not in (name, "label")
            and node.shape == shape[:1]
            and node.dtype.kind in "biufOS"
        }
    class_names = _classes(label, attributes, path) if is_class else None
    positions_m = None if is_class else _positions(label, attributes, path)
    groups = _groups(shape[0], columns, positions_m, block_size)
    recordings = columns.get("recording", columns.get("source_file", [path.name] * shape[0]))
    columns = {key: column.tolist() for key, column in columns.items() if key not in ("group", "recording")}
    rows = [
        {
            **({"label": int(label[row])} if is_class else {"position": positions_m[row].tolist()}),
            "recording": str(recordings[row]),
            "group": groups[row],
            "sampling_rate_hz": 0.0,
            "center_frequency_hz": 0.0,
            "start": row,
            "parameters": json.dumps({key: column[row] for key, column in columns.items()}),
            "source": path.name,
        }
        for row in range(shape[0])
    ]
    axes = None if is_class else POSITION_AXES[: label.shape[1]]
    if name == "sample":
        features = iq_features(*shape[2:], label_names=class_names, position_axes=axes)
    else:
        features = image_features(*shape[1:], label_names=class_names, position_axes=axes)
    return features, rows, num_rows, attributes


def _rows(path, split, item):
    with open_hdf5(path) as file:
        name, values = _values(file, path)
        values = read_float32(values, item["start"], item["stop"], path)
    for row in item["rows"]:
        value = values[row["start"] - item["start"]]
        # (2, A, T) -> (A, T, 2)
        yield row | ({"iq": value.transpose(1, 2, 0)} if name == "sample" else {"image": value})


def convert(
    input: str | Path,
    output: str | Path,
    protocol: str = "grouped",
    seed: int = 0,
    num_proc: int = 1,
    block_size: int = 100,
) -> Path:
    """Write the data set of one cache.

    Returns:
        `output`. Column `iq` (A, T, 2) or `image` (C, H, W) float32, as stored; `label` (class) or `position` (2 or 3
        coordinates in metres); `start` is the row of the cache.

    Raises:
        ValueError: the cache or an option is not what it must be; nothing is written then.
    """
    WavesfmCacheArguments(str(input), str(output), protocol, seed, num_proc, block_size)
    path = Path(input)
    features, rows, num_rows, attributes = _plan(path, block_size)
    groups = [row["group"] for row in rows]
    split_of = {}
    if protocol == "grouped":
        labels_of = {group: set() for group in groups}
        for row in rows:
            labels_of[row["group"]] |= {row["label"]} if "label" in row else set()
        split_of = grouped_splits(labels_of, seed)
    splits = split_rows(protocol, seed, path.name, groups, split_of)
    items = {}
    for split in ("train", "validation", "test") if protocol == "grouped" else ("train", "validation"):
        items[split] = [
            slab | {"rows": [rows[row] for row in slab["rows"]]} for slab in slabs(splits, split, num_rows)
        ]
    recipe = {
        "generator": "processing.wavesfm_cache",
        "protocol": protocol,
        "seed": seed,
        "block_size": block_size,
        "attributes": attributes,
        "files_sha256": fingerprint([path], path.parent),
    }
    return write_dataset(output, features, items, partial(_rows, path), recipe, num_proc)


def main(arguments: list[str] | None = None):
    run_converter(convert, WavesfmCacheArguments, arguments)


if __name__ == "__main__":
    main()
