"""Wi-Fi CSI captures -> windows of amplitude: Intel 5300, Atheros, Nexmon and ESP32.

    python -m processing.wifi_csi --input FOLDER --output DIR --window_length 256 --hop 128

FOLDER holds captures and `metadata.csv` (see `processing.recording_folder`) with one row per capture:

    file_name   the capture
    tool        intel (Linux 802.11n CSI Tool, .dat), atheros (Atheros CSI Tool, .dat), nexmon (nexmon_csi, .pcap) or
                esp32 (lines of esp-csi or ESP32-CSI-Tool, .csv)
    chip        for nexmon only: 4339, 43455c0, 4358 or 4366c0; the file does not tell
    label, or x_m, y_m[, z_m]       the target
    group, split                    optional: what stays together (default: the capture), and where
    sampling_rate_hz, center_frequency_hz   optional: instead of the packet rate that the time stamps give, and of 0

Column `csi`: (rx * tx, subcarriers, window_length) float32, channel rx * num_tx + tx, subcarriers in the order of the
tool. Amplitude: for Intel the square root of the signal-to-noise ratio (automatic gain undone); for the others the
number that the chip reports, whose gain is not known. `sampling_rate_hz` is packets per second, by the median interval
between packets; 0 where the capture holds no usable time. `start` is the first packet of the window.
"""

import json
import warnings
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from modeling_mmwfm.csi_captures_mmwfm import read_capture
from processing.converting import ConversionArguments, plan_items, run_converter, wanted_windows
from processing.recording_folder import assign_splits, read_metadata, window_starts
from processing.schema import csi_features
from processing.writing import fingerprint, write_dataset


@dataclass
class WifiCsiArguments(ConversionArguments):
    window_length: int = field(default=256, metadata={"help": "Packets of a window."})
    hop: int | None = field(default=None, metadata={"help": "Packets from window to window. Default: window_length."})

    def __post_init__(self):
        super().__post_init__()
        for name in ("window_length", "hop"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, found {getattr(self, name)}")


def _plan(folder, rows, window_length, hop):
    """Read every capture once: rows with what the writer needs. Nothing is kept of the amplitudes."""
    planned, left_out = [], []
    for row in rows:
        path, parameters = folder / row["file_name"], json.loads(row["parameters"])
        if "tool" not in parameters:
            raise ValueError(
                f"expected a tool in every row of {folder / 'metadata.csv'}, found none for {path.name!r}"
            )
        chip = row.get("chip")
        capture = read_capture(path, parameters["tool"], chip)
        num_packets = capture.amplitude.shape[-1]
        starts = window_starts(num_packets, window_length, hop)
        if capture.num_left_out:
            warnings.warn(
                f"left out {capture.num_left_out} packets of {path}: not of the {capture.amplitude.shape[:2]} "
                "channels and subcarriers of most",
                stacklevel=3,
            )
        if not starts:
            left_out.append(f"{row['file_name']} ({num_packets} packets)")
            continue
        facts = {"tool": parameters["tool"], "chip": chip, "starts": starts, "shape": capture.amplitude.shape[:2]}
        facts["parameters"] = json.dumps(parameters | ({"chip": chip} if chip else {}), sort_keys=True)
        facts["sampling_rate_hz"] = row.get("sampling_rate_hz") or capture.packet_rate_hz
        planned.append({**row, "group": row.get("group", row["file_name"]), **facts})
    if left_out:
        message = (
            f"{len(left_out)} of {len(rows)} captures are shorter than {window_length}: {', '.join(left_out[:20])}"
        )
        if not planned:
            raise ValueError(f"expected captures of at least one window in {folder}, found none: {message}")
        warnings.warn(f"left out: {message}", stacklevel=3)
    for row in planned:
        if row["shape"] != planned[0]["shape"]:
            found = " and ".join(f"{other['shape']} in {other['file_name']}" for other in (planned[0], row))
            raise ValueError(f"expected the same channels and subcarriers in all captures of {folder}, found {found}")
    return planned


def _rows(folder, window_length, protocol, seed, split, item):
    """Data set rows of one capture."""
    name = item["file_name"]
    columns = {
        "recording": name,
        "group": item["group"],
        "sampling_rate_hz": item["sampling_rate_hz"],
        "center_frequency_hz": item.get("center_frequency_hz", 0.0),
        "parameters": item["parameters"],
        "source": name,
    }
    if "label" in item:
        columns["label"] = item["label"]
    if "x_m" in item:
        columns["position"] = [item[axis] for axis in ("x_m", "y_m", "z_m") if axis in item]
    amplitude = read_capture(folder / name, item["tool"], item["chip"]).amplitude
    for window in wanted_windows(protocol, split, seed, name, len(item["starts"])):
        start = item["starts"][window]
        yield {**columns, "csi": amplitude[..., start : start + window_length], "unit": "linear", "start": start}


def convert(
    input: str | Path,
    output: str | Path,
    protocol: str = "grouped",
    seed: int = 0,
    num_proc: int = 1,
    window_length: int = 256,
    hop: int | None = None,
) -> Path:
    """Write the data set of a folder of captures.

    Args:
        input: folder with captures and metadata.csv, see the module.
        output: the folder to make.
        protocol: "grouped" keeps a group in one split (the column split where there is one, otherwise drawn: a fifth
            for test, a tenth for validation); "paper" holds out a random fifth of the windows.
        window_length, hop: packets of a window, and from one to the next (default: window_length).

    Returns:
        `output`. Column `csi` (rx * tx, subcarriers, window_length) float32.

    Raises:
        ValueError: whatever is wrong with metadata.csv, a capture or the splits; nothing is written then.
    """
    arguments = WifiCsiArguments(str(input), str(output), protocol, seed, num_proc, window_length, hop)
    folder = Path(input)
    rows = read_metadata(folder)
    if not {"label", "x_m"} & set(rows[0]):
        raise ValueError(f"expected a column label, or x_m and y_m, in {folder / 'metadata.csv'}, found neither")
    rows = _plan(folder, rows, window_length, hop or window_length)
    split_of = {}
    if protocol == "grouped":
        splits = assign_splits(rows, test_fraction=0.2, validation_fraction=0.1, seed=seed)
        split_of = {row["group"]: split for row, split in zip(rows, splits)}
    items = plan_items(protocol, seed, rows, split_of, lambda row: (row["file_name"], len(row["starts"])))

    names = ["metadata.csv", *(row["file_name"] for row in rows)]
    recipe = {"generator": "processing.wifi_csi"}
    recipe |= {name: value for name, value in asdict(arguments).items() if name not in ("input", "output", "num_proc")}
    recipe["files_sha256"] = fingerprint((folder / name for name in names), folder)

    labels = sorted({row["label"] for row in rows}) if "label" in rows[0] else None
    axes = [axis for axis in ("x_m", "y_m", "z_m") if axis in rows[0]] or None
    features = csi_features(*rows[0]["shape"], window_length, label_names=labels, position_axes=axes)
    row_function = partial(_rows, folder, window_length, protocol, seed)
    return write_dataset(output, features, items, row_function, recipe, num_proc)


def main(arguments: list[str] | None = None):
    run_converter(convert, WifiCsiArguments, arguments, description=__doc__.splitlines()[0])


if __name__ == "__main__":
    main()
