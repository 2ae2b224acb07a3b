"""5G NR positioning (CSI of a simulated site at three SNRs) -> an image-like data set.

    python -m processing.nr_positioning --input FOLDER --output DIR --scenario outdoor

FOLDER holds `dataset_SNR{10,20,50}_{outdoor,indoor}.mat` (MATLAB v7.3, that is HDF5), each with `features`
(N, C, H, W), the CSI image of C base stations (4 or 5), and `labels/position` (N, 3) in metres. MATLAB stores the axes
of an array in reverse; both orders are read, and told apart by where C and the 3 are.

"grouped" groups by position, rounded to a millimetre: the files repeat the same positions at every SNR, and the copies
must not part. "paper" draws a fifth of the rows whatever their position.

Source: Gao, Wang, Lv, "CSI Dataset towards 5G NR High-Precision Positioning", IEEE DataPort, doi 10.21227/jsat-pb50.
"""

import json
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import h5py

from processing.converting import (
    POSITION_AXES,
    ConversionArguments,
    grouped_splits,
    position_groups,
    run_converter,
    split_rows,
)
from processing.hdf5 import open_hdf5, read_float32, slab_rows, slabs
from processing.schema import image_features
from processing.writing import fingerprint, write_dataset

FILE_NAME = re.compile(r"dataset_SNR(-?\d+)_(outdoor|indoor)\.mat", re.IGNORECASE)
SCENARIOS = ("outdoor", "indoor")
NUM_BASE_STATIONS = (4, 5)


@dataclass
class NrPositioningArguments(ConversionArguments):
    """What to read."""

    scenario: Literal["outdoor", "indoor"] = field(default="outdoor", metadata={"help": "Which site to read."})

    def __post_init__(self):
        super().__post_init__()
        if self.scenario not in SCENARIOS:
            raise ValueError(f"expected scenario {' or '.join(SCENARIOS)}, found {self.scenario!r}")


def _datasets(file, path):
    """`features`, `labels/position` and whether their axes are in reverse."""
    arrays = []
    for name in ("features", "labels/position"):
        node = file.get(name)
        if not isinstance(node, h5py.Dataset) or node.dtype.kind != "f":
            found = f"{node.dtype} {node.shape}" if isinstance(node, h5py.Dataset) else f"only {', '.join(file)}"
            raise ValueError(f"expected floating-point numbers in {name} of {path}, found {found}")
        arrays.append(node)
    features, positions = arrays
    fits = []
    if features.ndim == 4 and features.size > 0:
        for reverse in (False, True):
            num_rows, num_stations, *_ = features.shape[::-1] if reverse else features.shape
            shape = positions.shape[::-1] if reverse else positions.shape
            if num_stations in NUM_BASE_STATIONS and shape == (num_rows, len(POSITION_AXES)):
                fits.append(reverse)
    if len(fits) != 1:
        raise ValueError(
            f"expected features (N, C, H, W) with C of 4 or 5 and labels/position (N, 3), or both in reverse, "
            f"in {path}, found {features.shape}, {positions.shape}: {'both orders' if fits else 'neither order'} fit"
        )
    return features, positions, fits[0]


def _find(path, scenario):
    """[(file, SNR in dB)] of a scenario."""
    paths = [path] if path.is_file() else sorted(path.glob("*"))
    matches = [(entry, FILE_NAME.fullmatch(entry.name)) for entry in paths]
    files = [(entry, int(match[1])) for entry, match in matches if match and match[2].lower() == scenario]
    if not files:
        found = ", ".join(entry.name for entry in paths[:20]) or "nothing"
        raise ValueError(f"expected dataset_SNR<dB>_{scenario}.mat in {path}, found {found}; compare scenario")
    return sorted(files, key=lambda file: file[1])


def _plan(input, scenario):
    """Facts of every file, after reading all of it once, slab by slab."""
    plan = []
    for path, snr_db in _find(input, scenario):
        with open_hdf5(path) as file:
            features, positions, reverse = _datasets(file, path)
            shape = features.shape[::-1] if reverse else features.shape
            num_rows = slab_rows(features, 3 if reverse else 0)
            for start in range(0, shape[0], num_rows):
                read_float32(features, start, min(start + num_rows, shape[0]), path, reverse)
            groups = position_groups(read_float32(positions, 0, shape[0], path, reverse))
        plan.append({"path": path, "snr_db": snr_db, "shape": shape[1:], "slab": num_rows, "groups": groups})
        if plan[-1]["shape"] != plan[0]["shape"]:
            first, last = (f"{entry['shape']} in {entry['path'].name}" for entry in (plan[0], plan[-1]))
            raise ValueError(f"expected features of one (C, H, W) in {path.parent}, found {first} and {last}")
    return plan


def _rows(scenario, split, item):
    path = item["path"]
    with open_hdf5(path) as file:
        features, positions, reverse = _datasets(file, path)
        images = read_float32(features, item["start"], item["stop"], path, reverse)
        positions_m = read_float32(positions, item["start"], item["stop"], path, reverse)
    groups = position_groups(positions_m)
    parameters = json.dumps({"scenario": scenario, "snr_db": item["snr_db"]})
    for row in item["rows"]:
        yield {
            "image": images[row - item["start"]],
            "position": positions_m[row - item["start"]],
            "recording": path.name,
            "group": groups[row - item["start"]],
            "sampling_rate_hz": 0.0,
            "center_frequency_hz": 0.0,
            "start": row,
            "parameters": parameters,
            "source": path.name,
        }


def convert(
    input: str | Path,
    output: str | Path,
    protocol: str = "grouped",
    seed: int = 0,
    num_proc: int = 1,
    scenario: str = "outdoor",
) -> Path:
    """Write the data set of one scenario: all SNRs of a folder, or one file.

    Returns:
        `output`. Column `image` (C, H, W) float32 as in the files; `position` (3,) float32 in metres; `recording` is
        the file and `start` the row in it; "snr_db" is in `parameters`.

    Raises:
        ValueError: a file or an option is not what it must be; nothing is written then.
    """
    NrPositioningArguments(str(input), str(output), protocol, seed, num_proc, scenario)
    plan = _plan(Path(input), scenario)
    split_of = {}
    if protocol == "grouped":
        split_of = grouped_splits({group: set() for file in plan for group in file["groups"]}, seed)
    items = {split: [] for split in ("train", "validation", "test") if protocol == "grouped" or split != "test"}
    for file in plan:
        splits = split_rows(protocol, seed, file["path"].name, file["groups"], split_of)
        for split, entries in items.items():
            facts = {"path": file["path"], "snr_db": file["snr_db"]}
            entries += [facts | slab for slab in slabs(splits, split, file["slab"])]
    recipe = {
        "generator": "processing.nr_positioning",
        "protocol": protocol,
        "seed": seed,
        "scenario": scenario,
        "files_sha256": fingerprint([file["path"] for file in plan], plan[0]["path"].parent),
    }
    features = image_features(*plan[0]["shape"], position_axes=POSITION_AXES)
    return write_dataset(output, features, items, partial(_rows, scenario), recipe, num_proc)


def main(arguments: list[str] | None = None):
    run_converter(convert, NrPositioningArguments, arguments)


if __name__ == "__main__":
    main()
