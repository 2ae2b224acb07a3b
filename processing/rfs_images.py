"""Radio-signal waterfalls, one picture each -> an image-like data set.

    python -m processing.rfs_images --input FOLDER --output DIR

FOLDER holds `<label>_*.png` of the 20 classes in `CLASSES` (upper or lower case). A waterfall has time on its rows,
downwards, and frequency on its columns, lowest first; turned a quarter counter-clockwise, as for the published
results, it has frequency on rows, highest first, and time on columns. So has the simulated set `rfs`. It becomes gray
(ITU-R BT.601 luma) and is resized by an antialiased bicubic filter.

Every picture is taken for a recording and a group of its own. Only a name that ends with a mark and a number, such as
`_part2`, `-seg_3` or `_chunk04` (see `PART`), is taken for a part of a recording; all parts are one group then. A bare
number at the end does not count: it may number the recordings of a class.

Neither sampling rate nor duration is in the pictures, so that sampling_rate_hz is 0.
"""

import json
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from processing.converting import ConversionArguments, grouped_splits, plan_items, run_converter
from processing.recordings import read_recording
from processing.schema import image_features
from processing.writing import fingerprint, write_dataset

CLASSES = (
    "ads-b", "airband", "ais", "automatic-picture-transmission", "bluetooth", "cellular", "digital-audio-broadcasting",
    "digital-speech-decoder", "fm", "lora", "morse", "on-off-keying", "packet", "pocsag", "Radioteletype",
    "remote-keyless-entry", "RS41-Radiosonde", "sstv", "vor", "wifi",
)  # fmt: skip
PART = re.compile(r"[-_. ](part|segment|seg|chunk|slice|window|frame|crop)[-_. ]?\d+$", re.IGNORECASE)
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


@dataclass
class RfsImagesArguments(ConversionArguments):
    """What to read and how large to make it."""

    image_size: int = field(default=224, metadata={"help": "Height and width of the images."})

    def __post_init__(self):
        super().__post_init__()
        if self.image_size < 1:
            raise ValueError(f"expected image_size >= 1, found {self.image_size}")


def label_of(path: Path) -> str:
    """Class of a file `<label>_*.png`: the longest that fits, upper or lower case.

    Raises:
        ValueError: the name begins with no class.
    """
    fitting = [name for name in CLASSES if path.name.lower().startswith(f"{name.lower()}_")]
    if not fitting:
        raise ValueError(f"expected <label>_*.png with a label of {', '.join(CLASSES)}, found {path.name!r} ({path})")
    return max(fitting, key=len)


def read_waterfall(path: Path) -> np.ndarray:
    """(1, H, W) float32 in [0, 1]: frequency on rows, highest first, time on columns.

    Raises:
        ValueError: the file is not a complete picture.
    """
    pixels = read_recording(path).values
    gray = np.tensordot(LUMA, pixels, axes=1) if len(pixels) == 3 else pixels[0]
    return np.rot90(gray)[None]


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """(C, H, W) in [0, 1] -> (C, size, size) by antialiased bicubic; what overshoots [0, 1] is clipped."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a process made by fork must not enter its parent's OpenMP threads
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(np.ascontiguousarray(image))[None], (size, size), mode="bicubic", antialias=True
    )
    torch.set_num_threads(threads)
    return resized[0].clamp(0, 1).numpy()


def _plan(folder):
    """One item for each picture, after decoding all of them once."""
    paths = sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() == ".png")
    if not paths:
        raise ValueError(f"expected <label>_*.png in the folder {folder}, found none")
    items = []
    for path in paths:
        label = label_of(path)
        _, height, width = read_recording(path).values.shape
        # Without case: labels are read so, and parts must not be told apart by it.
        group = PART.sub("", path.stem).lower()
        items.append({"recording": path.name, "group": group, "label": label, "height": height, "width": width})
    return items


def _rows(folder, image_size, split, item):
    yield {
        "image": resize(read_waterfall(folder / item["recording"]), image_size),
        "label": item["label"],
        "recording": item["recording"],
        "group": item["group"],
        "sampling_rate_hz": 0.0,
        "center_frequency_hz": 0.0,
        "start": 0,
        "parameters": json.dumps({"waterfall_height": item["height"], "waterfall_width": item["width"]}),
        "source": item["recording"],
    }


def convert(
    input: str | Path,
    output: str | Path,
    protocol: str = "grouped",
    seed: int = 0,
    num_proc: int = 1,
    image_size: int = 224,
) -> Path:
    """Write the data set of a flat folder of waterfalls.

    Returns:
        `output`. Column `image` (1, image_size, image_size) float32 in [0, 1]: frequency on rows, highest first, time
        on columns; `label` one of `CLASSES`; one row for each picture.

    Raises:
        ValueError: a name, a picture or an option is not what it must be; nothing is written then.
    """
    RfsImagesArguments(str(input), str(output), protocol, seed, num_proc, image_size)
    folder = Path(input)
    items = _plan(folder)
    labels_of = {}
    for item in items:
        labels_of.setdefault(item["group"], set()).add(item["label"])
    split_of = grouped_splits(labels_of, seed) if protocol == "grouped" else {}
    planned = plan_items(protocol, seed, items, split_of)
    recipe = {
        "generator": "processing.rfs_images",
        "protocol": protocol,
        "seed": seed,
        "image_size": image_size,
        "files_sha256": fingerprint([folder / item["recording"] for item in items], folder),
    }
    features = image_features(1, image_size, image_size, label_names=CLASSES)
    return write_dataset(output, features, planned, partial(_rows, folder, image_size), recipe, num_proc)


def main(arguments: list[str] | None = None):
    run_converter(convert, RfsImagesArguments, arguments)


if __name__ == "__main__":
    main()
