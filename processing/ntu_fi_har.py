"""NTU-Fi HAR (human activity from WiFi CSI) -> an image-like data set.

    python -m processing.ntu_fi_har --input NTU-Fi_HAR --output DIR

NTU-Fi_HAR holds {train_amp, test_amp}/<class>/*.mat with the classes box, circle, clean, fall, run and walk. Each file
is one recording: `CSIamp`, 342 x 2000, the CSI amplitude of 3 antennas x 114 subcarriers over 2000 packets. Its values
(mean about 42, standard deviation about 5) look like dB, which the source does not say; they are written as they are.

"grouped" keeps the official test folder and draws the validation recordings from the official train folder. The files
do not name their subjects, so neither split can be told to be free of subjects that it shares with the other.
"paper" draws a fifth of the recordings of both folders.

Source: Yang et al., "EfficientFi", IEEE Internet of Things Journal 9(15), 2022, doi 10.1109/JIOT.2021.3139958.
"""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from processing.converting import ConversionArguments, grouped_splits, plan_items, run_converter
from processing.recordings import read_mat
from processing.schema import image_features
from processing.writing import fingerprint, write_dataset

CLASSES = ("box", "circle", "clean", "fall", "run", "walk")
FOLDERS = ("train_amp", "test_amp")
NUM_ANTENNAS, NUM_SUBCARRIERS, NUM_PACKETS = 3, 114, 2000


@dataclass
class NtuFiHarArguments(ConversionArguments):
    """What to read and how many packets to keep."""

    decimation: int = field(
        default=1, metadata={"help": "Keep every n-th packet, without a filter; 4 gives 500 columns."}
    )

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.decimation <= NUM_PACKETS:
            raise ValueError(f"expected decimation of 1 to {NUM_PACKETS}, found {self.decimation}")


def read_amplitude(path: Path) -> np.ndarray:
    """CSI amplitude of one file: (3, 114, 2000) float32, antennas x subcarriers x packets.

    Raises:
        ValueError: the file is incomplete, has no `CSIamp` of 342 x 2000 floating-point numbers, or holds NaN.
    """
    recording = read_mat(path, "CSIamp")
    shape = (NUM_ANTENNAS * NUM_SUBCARRIERS, NUM_PACKETS)
    if recording.kind != "image" or recording.raw.shape != (1, *shape) or recording.raw.dtype.kind != "f":
        found = f"{recording.raw.dtype} {recording.raw.shape}"
        raise ValueError(f"expected CSIamp of real floating-point numbers {shape} in {path}, found {found}")
    return recording.values.reshape(NUM_ANTENNAS, NUM_SUBCARRIERS, NUM_PACKETS)


def _plan(root):
    """One item for each file, after reading all of them once."""
    items = []
    for folder in FOLDERS:
        found = {path.name for path in (root / folder).glob("[!.]*") if path.is_dir()}
        if found != set(CLASSES):
            classes, found = ", ".join(CLASSES), ", ".join(sorted(found)) or "none"
            raise ValueError(f"expected the folders {classes} in {root / folder}, found {found}")
        for label in CLASSES:
            paths = sorted((root / folder / label).glob("[!.]*.mat"))
            if not paths:
                raise ValueError(f"expected .mat files in {root / folder / label}, found none")
            for path in paths:
                read_amplitude(path)
                name = path.relative_to(root).as_posix()
                items.append({"recording": name, "group": name, "label": label, "folder": folder})
    return items


def _rows(root, decimation, split, item):
    yield {
        "image": read_amplitude(root / item["recording"])[..., ::decimation],
        "unit": "linear",
        "label": item["label"],
        "recording": item["recording"],
        "group": item["group"],
        "sampling_rate_hz": 0.0,  # the packet rate is not documented
        "center_frequency_hz": 0.0,
        "start": 0,
        "parameters": json.dumps({"official_folder": item["folder"], "decimation": decimation}),
        "source": item["recording"],
    }


def convert(
    input: str | Path,
    output: str | Path,
    protocol: str = "grouped",
    seed: int = 0,
    num_proc: int = 1,
    decimation: int = 1,
) -> Path:
    """Write the data set of a folder NTU-Fi_HAR, or of the folder that holds it.

    Returns:
        `output`. Column `image` (3, 114, ceil(2000 / decimation)) float32: antennas x subcarriers x packets, amplitude
        as in the files; `label` one of `CLASSES`; one row for each file.

    Raises:
        ValueError: a folder, a file or an option is not what it must be; nothing is written then.
    """
    NtuFiHarArguments(str(input), str(output), protocol, seed, num_proc, decimation)
    root = Path(input)
    root = root / "NTU-Fi_HAR" if (root / "NTU-Fi_HAR").is_dir() else root
    items = _plan(root)
    official_train = {item["group"]: {item["label"]} for item in items if item["folder"] == "train_amp"}
    split_of = {item["group"]: "test" for item in items} | grouped_splits(official_train, seed, test_fraction=0)
    planned = plan_items(protocol, seed, items, split_of)
    recipe = {
        "generator": "processing.ntu_fi_har",
        "protocol": protocol,
        "seed": seed,
        "decimation": decimation,
        "files_sha256": fingerprint([root / item["recording"] for item in items], root),
    }
    num_columns = len(range(0, NUM_PACKETS, decimation))
    features = image_features(NUM_ANTENNAS, NUM_SUBCARRIERS, num_columns, label_names=CLASSES, is_csi=True)
    return write_dataset(output, features, planned, partial(_rows, root, decimation), recipe, num_proc)


def main(arguments: list[str] | None = None):
    run_converter(convert, NtuFiHarArguments, arguments)


if __name__ == "__main__":
    main()
