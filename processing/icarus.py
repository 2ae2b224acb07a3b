"""ICARUS (detection of a spread-spectrum signal beneath LTE) -> an IQ data set.

    python -m processing.icarus --input POWDER_Dataset --output DIR

POWDER_Dataset holds `Batch1_{5,10}MHz/{IQ,Metadata}/`. Every `Metadata/<name>.csv` has one row for the recording
`IQ/<name>` (or `<name>.bin`): Signal_Type, DSSS_Mod (2 or 4 constellation points), Sampling_Rate in Hz, and
No_of_Samples or else Frameduration in seconds. The recording is interleaved IQ without header; its sample
type is the one that file size and number of samples leave: float32, int16 or int8 (little-endian).

Of each recording the 4096 samples in the middle are one row. The level is kept, for it tells of the interference:
floats as they are, integers as parts of full scale. Classes: "lte" alone, and LTE with "bpsk-dsss" or "qpsk-dsss".
"grouped" draws recordings for validation and test in proportion from every class; "paper" draws a fifth of them.

Source: Roy et al., "ICARUS: Learning on IQ and Cycle Frequencies for Detecting Anomalous RF Underlay Signals", IEEE
INFOCOM 2023.
"""

import csv
import json
import math
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from processing.converting import ConversionArguments, grouped_splits, plan_items, run_converter
from processing.recordings import DATATYPES, Recording
from processing.schema import iq_features
from processing.writing import fingerprint, write_dataset

LABELS = ("lte", "bpsk-dsss", "qpsk-dsss")
LABEL_OF_MODULATION = {2: "bpsk-dsss", 4: "qpsk-dsss"}
BATCH_NAME = re.compile(r"Batch\d+_(\d+)MHz")
SAMPLE_TYPES = ("cf32_le", "ci16_le", "ci8")
KNOWN_COLUMNS = ("Signal_Type", "Sampling_Rate")
WINDOW_LENGTH = 4096
DURATION_SLACK = 2  # samples that a rounded Frameduration may miss


@dataclass
class IcarusArguments(ConversionArguments):
    """What to read."""


def read_metadata(path: Path) -> dict[str, str]:
    """The one row of a csv file: column -> text; blank cells are left out.

    Raises:
        ValueError: the file is not a table of one row, or has no Signal_Type or Sampling_Rate.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"expected a comma-separated table in {path}, found something else: {error}") from error
    if len(rows) != 1:
        raise ValueError(f"expected a header and one row in {path}, found {len(rows)} rows")
    if None in rows[0] or None in rows[0].values():
        raise ValueError(f"expected as many cells as columns in {path}, found {rows[0]}")
    row = {name.strip(): cell.strip() for name, cell in rows[0].items() if cell.strip()}
    if missing := [name for name in KNOWN_COLUMNS if name not in row]:
        raise ValueError(f"expected a value of {' and '.join(missing)} in {path}, found {', '.join(row) or 'none'}")
    return row


def _positive(row, name, path):
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"expected {name} > 0 in {path}, found {row[name]!r}")
    return value


def label_of(row: dict[str, str], path: Path) -> str:
    """Class of a recording by its Signal_Type and DSSS_Mod; its file name must not say otherwise.

    Raises:
        ValueError: they name none of `LABELS`, or Signal_Type contradicts the file name.
    """
    signal = row["Signal_Type"].lower()
    has_dsss = "dsss" in signal
    if signal != "lte" and not has_dsss:
        raise ValueError(f"expected Signal_Type LTE or LTE_DSSS in {path}, found {row['Signal_Type']!r}")
    name = path.stem.lower()
    if "lte" in name and ("dsss" in name) != has_dsss:
        raise ValueError(f"expected the Signal_Type that the name of {path} says, found {row['Signal_Type']!r}")
    if not has_dsss:
        return "lte"
    modulation = _positive(row, "DSSS_Mod", path) if "DSSS_Mod" in row else None
    if modulation not in LABEL_OF_MODULATION:
        raise ValueError(f"expected DSSS_Mod 2 or 4 in {path}, found {row.get('DSSS_Mod')!r}")
    return LABEL_OF_MODULATION[modulation]


def sample_type(row: dict[str, str], csv_path: Path, iq_path: Path) -> str:
    """SigMF name of the samples in `iq_path`, by its size and the number of samples in `row`.

    Raises:
        ValueError: no sample type has that size, or `row` has no number of samples.
    """
    slack = 0
    if "No_of_Samples" in row:
        num_samples = _positive(row, "No_of_Samples", csv_path)
    elif "Frameduration" in row:
        num_samples = round(_positive(row, "Frameduration", csv_path) * _positive(row, "Sampling_Rate", csv_path))
        slack = DURATION_SLACK
    else:
        raise ValueError(f"expected No_of_Samples or Frameduration in {csv_path}, found {', '.join(row)}")
    size = iq_path.stat().st_size
    for name in SAMPLE_TYPES:
        found, rest = divmod(size, 2 * DATATYPES[name].itemsize)
        if rest == 0 and abs(found - num_samples) <= slack:
            return name
    raise ValueError(
        f"expected {num_samples:.0f} samples of 8 (float32), 4 (int16) or 2 (int8) bytes in {iq_path}, "
        f"by {csv_path.name}, found {size} bytes: truncated, or another recording"
    )


def open_recording(path: Path, datatype: str) -> Recording:
    """A file of interleaved IQ without header, memory-mapped: one antenna."""
    component = DATATYPES[datatype]
    shape = (1, path.stat().st_size // (2 * component.itemsize), 2)
    return Recording("iq", np.memmap(path, component, mode="r", shape=shape), (path,))


def _plan(root):
    """One item for each recording, after reading the middle of all of them once."""
    batches = [folder for folder in sorted(root.glob("*")) if folder.is_dir() and BATCH_NAME.fullmatch(folder.name)]
    if not batches:
        raise ValueError(f"expected Batch1_5MHz or Batch1_10MHz in {root}, found none")
    items = []
    for batch in batches:
        metadata = {path.stem: path for path in sorted((batch / "Metadata").glob("[!.]*.csv"))}
        recordings = {path.name.removesuffix(".bin"): path for path in sorted((batch / "IQ").glob("[!.]*"))}
        if not metadata:
            raise ValueError(f"expected .csv files in {batch / 'Metadata'}, found none")
        if alone := sorted(metadata.keys() ^ recordings.keys()):
            shown = ", ".join(alone[:20])
            raise ValueError(
                f"expected a csv in Metadata for each recording in IQ of {batch}, found one alone of {shown}"
            )
        for stem, csv_path in metadata.items():
            path = recordings[stem]
            row = read_metadata(csv_path)
            label, datatype = label_of(row, csv_path), sample_type(row, csv_path, path)
            recording = open_recording(path, datatype)
            num_samples = recording.shape[-1]
            if num_samples < WINDOW_LENGTH:
                raise ValueError(f"expected at least {WINDOW_LENGTH} samples in {path}, found {num_samples}")
            start = (num_samples - WINDOW_LENGTH) // 2
            recording.window(start, WINDOW_LENGTH)  # finds NaN before anything is written
            name = path.relative_to(root).as_posix()
            bandwidth_hz = 1e6 * int(BATCH_NAME.fullmatch(batch.name)[1])
            items.append(
                {
                    "recording": name,
                    "group": name,
                    "label": label,
                    "datatype": datatype,
                    "sampling_rate_hz": _positive(row, "Sampling_Rate", csv_path),
                    "start": start,
                    "parameters": {**row, "lte_bandwidth_hz": bandwidth_hz, "datatype": datatype},
                    "csv": csv_path.relative_to(root).as_posix(),
                }
            )
    return items


def _rows(root, split, item):
    values = open_recording(root / item["recording"], item["datatype"]).window(item["start"], WINDOW_LENGTH)
    yield {
        "iq": values.view(np.float32).reshape(1, WINDOW_LENGTH, 2),
        "label": item["label"],
        "recording": item["recording"],
        "group": item["group"],
        "sampling_rate_hz": item["sampling_rate_hz"],
        "center_frequency_hz": 0.0,  # the csv files do not say
        "start": item["start"],
        "parameters": json.dumps(item["parameters"]),
        "source": item["recording"],
    }


def convert(
    input: str | Path, output: str | Path, protocol: str = "grouped", seed: int = 0, num_proc: int = 1
) -> Path:
    """Write the data set of a folder with Batch1_5MHz, Batch1_10MHz or both.

    Returns:
        `output`. Column `iq` (1, 4096, 2) float32: the middle of a recording, at its level; `label` one of `LABELS`;
        the cells of its csv file are in `parameters` as text, beside "lte_bandwidth_hz" and "datatype".

    Raises:
        ValueError: a file or an option is not what it must be; nothing is written then.
    """
    IcarusArguments(str(input), str(output), protocol, seed, num_proc)
    root = Path(input)
    items = _plan(root)
    split_of = (
        grouped_splits({item["group"]: {item["label"]} for item in items}, seed) if protocol == "grouped" else {}
    )
    planned = plan_items(protocol, seed, items, split_of)
    files = [root / item[name] for item in items for name in ("recording", "csv")]
    recipe = {
        "generator": "processing.icarus",
        "protocol": protocol,
        "seed": seed,
        "files_sha256": fingerprint(files, root),
    }
    features = iq_features(1, WINDOW_LENGTH, label_names=LABELS)
    return write_dataset(output, features, planned, partial(_rows, root), recipe, num_proc)


def main(arguments: list[str] | None = None):
    run_converter(convert, IcarusArguments, arguments)


if __name__ == "__main__":
    main()
