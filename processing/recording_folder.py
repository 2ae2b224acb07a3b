"""Turn a folder of your own recordings into a data set.

    python -m processing.recording_folder --input FOLDER --output DIR --window_length 4096

FOLDER holds recordings in any format of `processing.recordings` and `metadata.csv` with one row per recording:

    file_name                       required, relative to FOLDER; for SigMF the .sigmf-meta file
    label                           class name
    x_m, y_m[, z_m]                 position
    group                           what must not be on both sides of a split (device, session ...); default: the file
    split                           train, validation or test; default: groups are drawn
    start, stop                     the samples (columns, packets) that the row is of; a file may then have several rows
    sampling_rate_hz, center_frequency_hz, datatype, num_antennas, variable, chip, unit     what the file does not say
                                    itself; of CSI the sampling rate is that of the packets, the unit linear or db

Any other column goes into `parameters`. The result opens with `datasets.load_dataset(DIR)`.
"""

import hashlib
import json
import math
import warnings
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

import numpy as np
import pandas as pd
from transformers import HfArgumentParser

from processing.recordings import read_recording
from processing.schema import csi_features, image_features, iq_features
from processing.writing import fingerprint, write_dataset

SPLITS = ("train", "validation", "test")
READER_COLUMNS = ("datatype", "num_antennas", "variable", "chip")
WHOLE_COLUMNS = ("num_antennas", "start", "stop")
NUMBER_COLUMNS = ("x_m", "y_m", "z_m", "sampling_rate_hz", "center_frequency_hz", *WHOLE_COLUMNS)
ALL_OR_NONE_COLUMNS = ("label", "group", "split", "x_m", "y_m", "z_m", "start", "stop")
KNOWN_COLUMNS = {"file_name", "unit", *READER_COLUMNS, *NUMBER_COLUMNS, *ALL_OR_NONE_COLUMNS}


@dataclass
class RecordingFolderArguments:
    """What to read, how to cut it and how to split it."""

    input: str = field(metadata={"help": "Folder with recordings and metadata.csv."})
    output: str = field(metadata={"help": "Folder to make: one data set in Parquet."})
    window_length: int | None = field(
        default=None, metadata={"help": "Samples (columns) of a window. Without it image-like data are taken whole."}
    )
    hop: int | None = field(default=None, metadata={"help": "Samples from window to window. Default: window_length."})
    max_windows: int | None = field(
        default=None, metadata={"help": "At most so many windows of a recording, evenly spread. Default: all."}
    )
    context: int = field(
        default=0, metadata={"help": "Samples on each side of a window that belong to the row but not to its label."}
    )
    kind: Literal["iq", "image", "csi"] | None = field(
        default=None, metadata={"help": "What arrays in .npy, .npz and .mat files are; insist on it for the others."}
    )
    test_fraction: float = field(default=0.2, metadata={"help": "Part of the groups for test, if there is no split."})
    validation_fraction: float = field(
        default=0.1,
        metadata={"help": "Part of the groups for validation (of the train groups if split names no validation)."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of the drawn splits."})
    num_proc: int = field(default=1, metadata={"help": "Number of processes that read and write."})

    def __post_init__(self):
        for name in ("window_length", "hop", "max_windows", "num_proc"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, found {getattr(self, name)}")
        if self.context < 0:
            raise ValueError(f"expected context >= 0, found {self.context}")
        if (self.hop or self.context) and self.window_length is None:
            raise ValueError(
                f"expected window_length beside hop and context, found {self.hop} and {self.context} alone"
            )
        fractions = self.test_fraction, self.validation_fraction
        if min(fractions) < 0 or sum(fractions) >= 1:
            raise ValueError(f"expected test_fraction and validation_fraction >= 0 with a sum < 1, found {fractions}")


def read_metadata(folder: Path) -> list[dict]:
    """Rows of `folder / "metadata.csv"`: column -> str or number; blank cells are left out.

    Columns of another meaning are together in "parameters" (JSON).

    Raises:
        ValueError: a column or file is missing, a name leaves the folder, or cells are blank or not what they must be.
    """
    path = folder / "metadata.csv"
    if not path.is_file():
        raise ValueError(f"expected {path} with a column file_name, found no such file")
    try:
        # As text: a label "01" or "NA" stays what it is.
        options = {"dtype": str, "keep_default_na": False, "na_values": [""], "skipinitialspace": True}
        table = pd.read_csv(path, index_col=False, encoding="utf-8-sig", **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a comma-separated table in {path}, found something else: {error}") from error
    if "file_name" not in table:
        raise ValueError(f"expected a column file_name in {path}, found {', '.join(table.columns)}")
    names = table["file_name"]
    if names.empty or names.isna().any():
        raise ValueError(f"expected a file_name in every row of {path}, found {len(names)} rows with blanks")
    for name in names:
        if ".." in name.split("/") or name.startswith("/") or "\\" in name or PureWindowsPath(name).drive:
            raise ValueError(f"expected file names inside {folder} with / between folders in {path}, found {name!r}")
    table["file_name"] = names = names.map(lambda name: str(PurePosixPath(name)))
    if (again := names.duplicated()).any() and "start" not in table:
        raise ValueError(
            f"expected every file once in {path}, or columns start and stop, found again {_some(names[again].unique())}"
        )
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ValueError(f"expected the files that {path} names, found no {_some(missing)}")

    table = table.dropna(axis="columns", how="all")
    for column in ALL_OR_NONE_COLUMNS:
        if column in table and (blank := table[column].isna()).any():
            raise ValueError(f"expected {column} in all rows of {path} or none, found blank for {_some(names[blank])}")
    for column in table.columns.intersection(NUMBER_COLUMNS):
        numbers = pd.to_numeric(table[column], errors="coerce")
        wrong = table[column].notna() & ~np.isfinite(numbers)
        if column.endswith("_hz"):
            wrong |= numbers < 0
        if column in WHOLE_COLUMNS:
            wrong |= (numbers < (column != "start")) | (numbers % 1 > 0)
        if wrong.any():
            raise ValueError(
                f"expected {column} to be a number in range in {path}, found {_some(table[column][wrong])}"
            )
        table[column] = numbers.astype("Int64") if column in WHOLE_COLUMNS else numbers
    if ("start" in table) != ("stop" in table) or ("start" in table and (table["start"] >= table["stop"]).any()):
        raise ValueError(f"expected columns start and stop with start < stop in {path}, found others")
    if "unit" in table and (unknown := set(table["unit"].dropna()) - {"linear", "db"}):
        raise ValueError(f"expected unit linear or db in {path}, found {_some(sorted(unknown))}")
    if ("x_m" in table) != ("y_m" in table) or ("z_m" in table and "x_m" not in table):
        raise ValueError(f"expected x_m and y_m together in {path}, found {', '.join(table.columns)}")
    if "split" in table and (unknown := set(table["split"]) - set(SPLITS)):
        raise ValueError(f"expected split {', '.join(SPLITS)} in {path}, found {_some(sorted(unknown))}")
    rows = []
    for record in table.to_dict("records"):
        row = {name: cell for name, cell in record.items() if pd.notna(cell)}
        extra = {name: _parameter(row.pop(name)) for name in set(row) - KNOWN_COLUMNS}
        rows.append({**row, "parameters": json.dumps(extra, sort_keys=True)})
    return rows


def _parameter(text):
    """A number where the cell is one, otherwise its text ("007" stays a name)."""
    try:
        value = json.loads(text, parse_constant=str)
    except ValueError:
        return text
    return value if isinstance(value, int | float) else text


def _some(names, limit=20):
    """The first names, in quotes, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more


def window_starts(num_samples: int, length: int, hop: int, max_windows: int | None = None) -> list[int]:
    """First samples of the windows that fit; `max_windows` keeps so many, evenly spread over the recording."""
    starts = range(0, num_samples - length + 1, hop)
    if max_windows is None or len(starts) <= max_windows:
        return list(starts)
    return [starts[(2 * i + 1) * len(starts) // (2 * max_windows)] for i in range(max_windows)]


def _open(folder, row, kind):
    options = {name: row[name] for name in READER_COLUMNS if name in row}
    return read_recording(folder / row["file_name"], kind=kind, **options)


def _agreed(row, recording, name):
    """The rate or frequency of the file or of its row; both must agree."""
    from_file, from_row = getattr(recording, name), row.get(name, 0.0)
    if recording.kind == "csi" and from_row:  # whose rate is measured
        return from_row
    if from_file and from_row and not math.isclose(from_file, from_row, rel_tol=1e-6):
        raise ValueError(
            f"expected {name} of {row['file_name']} as in the file, {from_file:g}; found {from_row:g} in metadata.csv"
        )
    return from_file or from_row


def _plan(folder, rows, arguments):
    """Open every recording once: rows with their windows, shape and files. Nothing is kept of the samples."""
    planned, short, name = [], [], None
    for row in rows:
        if row["file_name"] != name:  # rows of one file stand together
            name, recording = row["file_name"], _open(folder, row, arguments.kind)
        if arguments.kind not in (None, recording.kind):
            raise ValueError(f"expected kind {arguments.kind!r}, found {recording.kind!r} in {recording.files[0]}")
        if recording.kind == "iq" and arguments.window_length is None:
            raise ValueError(f"expected window_length for IQ, found none; {row['file_name']} is {recording.shape}")
        num_samples = recording.shape[-1]
        first, stop = row.get("start", 0), row.get("stop", num_samples)
        if stop > num_samples:
            raise ValueError(f"expected stop <= {num_samples}, the samples of {row['file_name']}, found {stop}")
        core = arguments.window_length or stop - first
        length = core + 2 * arguments.context
        starts = window_starts(stop - first, core, arguments.hop or core, arguments.max_windows)
        # At the ends of a recording a window with its context moves inwards.
        starts = [min(max(first + start - arguments.context, 0), num_samples - length) for start in starts]
        if not starts or length > num_samples:
            short.append(row["file_name"])
            continue
        for start in starts:  # finds NaN before anything is written
            recording.window(start, length)
        facts = {name: _agreed(row, recording, name) for name in ("sampling_rate_hz", "center_frequency_hz")}
        facts["sampling rate (known or not)"] = "known" if facts["sampling_rate_hz"] else "unknown"
        facts["shape"] = (*recording.shape[:-1], length)
        planned.append({**row, **facts, "kind": recording.kind, "starts": starts, "files": recording.files})
    if short:
        what = "stretches" if "start" in rows[0] else "recordings"
        message = f"{len(short)} of {len(rows)} {what} are shorter than {arguments.window_length}: {_some(short)}"
        if not planned:
            raise ValueError(f"expected recordings of at least one window, found none: {message}")
        warnings.warn(f"left out: {message}", stacklevel=3)
    for fact in ("kind", "shape", "sampling rate (known or not)"):
        for row in planned:
            if row[fact] != planned[0][fact]:
                found = " and ".join(f"{other[fact]} in {other['file_name']}" for other in (planned[0], row))
                raise ValueError(f"expected the same {fact} in all recordings of {folder}, found {found}")
    return planned


def draw_groups(labels_of: dict[str, set], fraction: float, generator: np.random.Generator) -> set[str]:
    """Draw `fraction` of the groups, at least one, in proportion from every class; never the last group of a class.

    Args:
        labels_of: group -> its labels. Groups of several labels are a class of their own.

    Raises:
        ValueError: no class has a second group.
    """
    strata = {}
    for group in generator.permutation(sorted(labels_of)).tolist():
        labels = labels_of[group]
        strata.setdefault(next(iter(labels)) if len(labels) == 1 else None, []).append(group)
    strata = list(strata.values())
    counts = [min(int(fraction * len(groups)), len(groups) - 1) for groups in strata]
    num_wanted = max(1, round(fraction * len(labels_of)))
    # What the whole numbers leave goes to the largest remainders.
    for i in sorted(range(len(strata)), key=lambda i: counts[i] - fraction * len(strata[i])):
        if sum(counts) < num_wanted and counts[i] < len(strata[i]) - 1:
            counts[i] += 1
    if sum(counts) == 0:
        raise ValueError(f"expected a label with two groups to hold one out, found one each of {_some(labels_of)}")
    return {group for count, groups in zip(counts, strata, strict=True) for group in groups[:count]}


def assign_splits(rows: list[dict], test_fraction: float, validation_fraction: float, seed: int) -> list[str]:
    """Split of every row, by its group: the column `split` where there is one, otherwise drawn.

    Raises:
        ValueError: a group is in two splits, there are fewer groups than splits, train has one label only, or another
            split has a label that train has not.
    """
    groups = [row.get("group", row["file_name"]) for row in rows]
    labels_of, splits_of = {}, {}
    for group, row in zip(groups, rows, strict=True):
        labels_of.setdefault(group, set()).add(row.get("label"))
        splits_of.setdefault(group, set()).add(row.get("split", "train"))
    for group, splits in splits_of.items():
        if len(splits) > 1:
            raise ValueError(f"expected a group in one split, found group {group!r} in {', '.join(sorted(splits))}")
    split_of = {group: splits.pop() for group, splits in splits_of.items()}

    if "split" in rows[0]:
        drawn = {} if "validation" in split_of.values() else {"validation": validation_fraction}
    else:  # validation is drawn from what test leaves
        drawn = {"test": test_fraction, "validation": validation_fraction / (1 - test_fraction)}
    drawn = {split: fraction for split, fraction in drawn.items() if fraction > 0}
    num_groups = sum(split == "train" for split in split_of.values())
    if num_groups < 1 + len(drawn):
        raise ValueError(
            f"expected at least {1 + len(drawn)} groups to draw {', '.join(['train', *drawn])} from, "
            f"found {num_groups}: fewer groups than splits"
        )
    generator = np.random.default_rng(seed)
    for split, fraction in drawn.items():
        rest = {group: labels for group, labels in labels_of.items() if split_of[group] == "train"}
        split_of.update(dict.fromkeys(draw_groups(rest, fraction, generator), split))

    splits = [split_of[group] for group in groups]
    if "label" in rows[0]:
        classes = {split: set() for split in splits}
        for row, split in zip(rows, splits, strict=True):
            classes[split].add(row["label"])
        if len(classes["train"]) == 1:
            raise ValueError(f"expected at least two labels in train, found {_some(classes['train'])} only")
        for split, own in classes.items():
            if unseen := sorted(own - classes["train"]):
                raise ValueError(f"expected every label of {split} in train too, found no {_some(unseen)} in train")
    return splits


def _rows(folder, split, item):
    """Data set rows of one recording."""
    name, length = item["file_name"], item["shape"][-1]
    columns = {
        "recording": name,
        "group": item.get("group", name),
        "sampling_rate_hz": item["sampling_rate_hz"],
        "center_frequency_hz": item["center_frequency_hz"],
        "parameters": item["parameters"],
        "source": name,
    }
    if "label" in item:
        columns["label"] = item["label"]
    if "x_m" in item:
        columns["position"] = [item[axis] for axis in ("x_m", "y_m", "z_m") if axis in item]
    recording = _open(folder, item, item["kind"])
    for start in item["starts"]:
        values = recording.window(start, length)
        if item["kind"] == "iq":
            values = values.view(np.float32).reshape((*values.shape, 2))
        if item["kind"] == "csi":
            columns["unit"] = "linear" if np.iscomplexobj(values) else item.get("unit", "")
            values = np.abs(values) if np.iscomplexobj(values) else values
        yield {**columns, item["kind"]: values, "start": start}


def build_recording_folder(input: str | Path, output: str | Path, **options) -> Path:
    """Write the data set of a folder of recordings and print how many windows each split and class got.

    Args:
        input, output, options: the fields of `RecordingFolderArguments`.

    Returns:
        `output`. Column `iq` (A, window_length, 2), `image` (C, H, W) or `csi` (A, subcarriers, packets) is float32; see
        `processing.schema`.

    Raises:
        ValueError: whatever is wrong with metadata.csv, a recording, the splits or `output`; nothing is written then.
    """
    arguments = RecordingFolderArguments(str(input), str(output), **options)
    folder = Path(input)
    rows = _plan(folder, read_metadata(folder), arguments)
    splits = assign_splits(rows, arguments.test_fraction, arguments.validation_fraction, arguments.seed)

    files = sorted({path for row in rows for path in row["files"]})
    recipe = {"generator": "processing.recording_folder"}
    # Neither where the folders are nor the number of processes changes the data.
    recipe |= {name: value for name, value in asdict(arguments).items() if name not in ("input", "output", "num_proc")}
    recipe["metadata_sha256"] = hashlib.sha256((folder / "metadata.csv").read_bytes()).hexdigest()
    recipe["files_sha256"] = fingerprint(files, folder)

    items = {split: [] for split in SPLITS if split in splits}
    for row, split in zip(rows, splits, strict=True):
        items[split].append({name: cell for name, cell in row.items() if name != "files"})
    labels = sorted({row["label"] for row in rows}) if "label" in rows[0] else None
    axes = [axis for axis in ("x_m", "y_m", "z_m") if axis in rows[0]] or None
    make_features = {"iq": iq_features, "image": image_features, "csi": csi_features}[rows[0]["kind"]]
    features = make_features(*rows[0]["shape"], label_names=labels, position_axes=axes)
    path = write_dataset(Path(output), features, items, partial(_rows, folder), recipe, arguments.num_proc)

    cut = [(row.get("label", "-"), split) for row, split in zip(rows, splits, strict=True) for _ in row["starts"]]
    label, split = zip(*cut, strict=True)
    names = {"rownames": ["label"], "colnames": ["split"], "margins_name": "windows"}
    print(pd.crosstab(np.array(label), pd.Categorical(split, categories=list(items)), margins=True, **names))
    return path


def main():
    parser = HfArgumentParser(RecordingFolderArguments)
    (arguments,) = parser.parse_args_into_dataclasses()
    try:
        build_recording_folder(**asdict(arguments))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
