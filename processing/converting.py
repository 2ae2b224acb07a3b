"""What the readers of published raw formats share: the command line, and the two ways of splitting.

"grouped", the default, keeps everything of one recording, day, user or position on one side of a split. "paper" is the
protocol of arXiv 2511.15162 and of the authors' benchmark: a random fifth of the *windows* is held out, the best epoch
is picked on it and the same fifth is reported. It is here so that its leak can be measured; it has no test split.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
from transformers import HfArgumentParser

from processing.recording_folder import draw_groups
from processing.simulation import random_generator

HELD_OUT_SHARE = 0.2
POSITION_AXES = ("x_m", "y_m", "z_m")


@dataclass
class ConversionArguments:
    """What every reader is told."""

    input: str = field(metadata={"help": "Folder or file in the raw format."})
    output: str = field(metadata={"help": "Folder to make: one data set in Parquet."})
    protocol: Literal["grouped", "paper"] = field(
        default="grouped", metadata={"help": "Splits by group, or the paper's random fifth of the windows."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the drawn splits."})
    num_proc: int = field(default=1, metadata={"help": "Number of processes that read and write."})

    def __post_init__(self):
        if self.protocol not in ("grouped", "paper"):
            raise ValueError(f"expected protocol 'grouped' or 'paper', found {self.protocol!r}")
        for name, least in (("num_proc", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"expected {name} >= {least}, found {getattr(self, name)}")


def run_converter(convert, arguments_class=ConversionArguments, arguments: list[str] | None = None, description=None):
    """Command line of a reader: fills `arguments_class`, calls `convert(**fields)` and prints the folder it made."""
    parser = HfArgumentParser(arguments_class, description=description)
    try:
        (parsed,) = parser.parse_args_into_dataclasses(arguments)
        print(convert(**asdict(parsed)))
    except ValueError as error:
        parser.error(str(error))


def grouped_splits(
    labels_of: dict[str, set], seed: int, test_fraction: float = 0.2, validation_fraction: float = 0.1
) -> dict[str, str]:
    """Draw a split for every group, in proportion from every class.

    Args:
        labels_of: group -> its labels (one empty set for unlabelled or continuous targets).
        test_fraction: share of the groups for test; 0 where the data set names its own test groups.
        validation_fraction: share of the groups for validation.

    Returns:
        group -> "train", "validation" or "test".

    Raises:
        ValueError: there are too few groups to hold any out.
    """
    split_of = dict.fromkeys(labels_of, "train")
    # A class of its own for every set of labels but one: `draw_groups` tells classes by single labels.
    remaining = {group: labels or {None} for group, labels in labels_of.items()}
    rng = np.random.default_rng(seed)
    for split, fraction in (("test", test_fraction), ("validation", validation_fraction)):
        if fraction > 0:
            drawn = draw_groups(remaining, fraction * len(labels_of) / len(remaining), rng)
            split_of.update(dict.fromkeys(drawn, split))
            remaining = {group: labels for group, labels in remaining.items() if group not in drawn}
    return split_of


def held_out_windows(seed: int, recording: str, num_windows: int) -> np.ndarray:
    """Which windows of a recording the "paper" protocol holds out: (num_windows,) bool, the same in every process."""
    return random_generator(seed, "paper", recording).random(num_windows) < HELD_OUT_SHARE


def plan_items(
    protocol: str,
    seed: int,
    items: list[dict],
    split_of: dict[str, str],
    windows_of: Callable[[dict], tuple[str, int]] = lambda item: (item["recording"], 1),
) -> dict[str, list[dict]]:
    """Split -> items to read. With "paper" an item is read for both splits, and `wanted_windows` chooses of it.

    Args:
        items: one for each recording, with its "group".
        split_of: group -> split, used by "grouped".
        windows_of: item -> name of the recording and number of its windows.

    Raises:
        ValueError: "paper" draws no window for one of its splits.
    """
    if protocol == "grouped":
        by_split = {}
        for item in items:
            by_split.setdefault(split_of[item["group"]], []).append(item)
        return {split: by_split[split] for split in ("train", "validation", "test") if split in by_split}
    planned = {
        split: [item for item in items if len(wanted_windows(protocol, split, seed, *windows_of(item)))]
        for split in ("train", "validation")
    }
    if empty := [split for split, entries in planned.items() if not entries]:
        total = sum(windows_of(item)[1] for item in items)
        raise ValueError(f"expected windows for train and validation, found none of {total} drawn for {empty[0]}")
    return planned


def wanted_windows(protocol: str, split: str, seed: int, recording: str, num_windows: int) -> np.ndarray:
    """Numbers of a recording's windows that belong to `split`."""
    if protocol == "grouped":
        return np.arange(num_windows)
    return np.flatnonzero(held_out_windows(seed, recording, num_windows) == (split == "validation"))


def position_groups(positions_m: np.ndarray) -> list[str]:
    """Positions (N, D) in metres -> names of their groups: the coordinates rounded to millimetres."""
    return [
        " ".join(map(str, row)) + " mm" for row in np.round(np.float64(1000) * positions_m).astype(np.int64).tolist()
    ]


def split_rows(protocol: str, seed: int, recording: str, groups: list[str], split_of: dict[str, str]) -> np.ndarray:
    """Split of every row of a file: that of its group, or by "paper" drawn row by row."""
    if protocol == "grouped":
        return np.array([split_of[group] for group in groups])
    return np.where(held_out_windows(seed, recording, len(groups)), "validation", "train")
