"""Annotations of SigMF recordings -> labelled windows of IQ.

    python -m processing.sigmf_annotations --input FOLDER --output DIR --window_length 4096 --hop 2048

FOLDER holds `.sigmf-meta` files beside their samples, also in folders within it. Every annotation with `core:label`,
`core:sample_start` and `core:sample_count` becomes windows of that label:

- as many as fit inside it, `hop` samples apart, from its first sample on;
- or, where it is shorter than a window, one window centred on it (moved to lie inside the recording), which then holds
  samples around the annotation, perhaps of another one.

Annotations without a label or a length, and those of recordings shorter than a window, are left out with a warning.
A recording is a group: it stays in one split. `parameters` holds the annotation's own start and length in samples
(`annotation_start`, `annotation_length`) and, where the annotation has them, its frequency edges
(`freq_lower_edge_hz`, `freq_upper_edge_hz`). Windows are not filtered to these edges.

Column `iq` (antennas, window_length, 2) float32; integers become full scale +-1, see `processing.recordings`.
"""

import json
import warnings
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from processing.converting import ConversionArguments, plan_items, run_converter, wanted_windows
from processing.recording_folder import assign_splits, window_starts
from processing.recordings import read_sigmf
from processing.schema import iq_features
from processing.writing import fingerprint, write_dataset

FREQUENCY_EDGES = ("freq_lower_edge", "freq_upper_edge")


@dataclass
class SigmfAnnotationsArguments(ConversionArguments):
    window_length: int = field(default=4096, metadata={"help": "Samples of a window."})
    hop: int | None = field(default=None, metadata={"help": "Samples from window to window. Default: window_length."})

    def __post_init__(self):
        super().__post_init__()
        for name in ("window_length", "hop"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, found {getattr(self, name)}")


def annotation_windows(start: int, length: int, num_samples: int, window_length: int, hop: int) -> list[int]:
    """First samples of the windows of an annotation of samples start to start + length of a recording.

    Those that fit inside it; if none does one that is centred on it, moved to lie inside the recording; none at all if
    the recording is shorter than a window.
    """
    if num_samples < window_length:
        return []
    if length >= window_length:
        return [start + offset for offset in window_starts(length, window_length, hop)]
    centred = start + (length - window_length) // 2
    return [min(max(centred, 0), num_samples - window_length)]


def _read_annotations(path):
    """Annotations of a `.sigmf-meta` file that `read_sigmf` has checked, the first sample of the file being 0.

    Returns:
        Those with a label and a length: {"label", "start", "length", "parameters" (JSON)}; and how many have none.
    """
    meta = json.loads(path.read_text(encoding="utf-8"))
    offset = meta["global"].get("core:offset", 0)
    annotations, num_left_out = [], 0
    for number, entry in enumerate(meta.get("annotations", [])):
        label, length = entry.get("core:label"), entry.get("core:sample_count")
        if label in (None, "") or length in (None, 0):
            num_left_out += 1
            continue
        start = entry["core:sample_start"] - offset
        edges_hz = {f"{name}_hz": entry[f"core:{name}"] for name in FREQUENCY_EDGES if f"core:{name}" in entry}
        if not isinstance(label, str) or not all(isinstance(count, int) for count in (start, length)):
            raise ValueError(
                f"expected core:label as text and whole core:sample_start, core:sample_count in {path}, found "
                f"{label!r}, {start + offset}, {length} in annotation {number}"
            )
        if start < 0 or length < 0:
            raise ValueError(
                f"expected annotations of samples from {offset} on in {path}, found start {start + offset} and "
                f"count {length} in annotation {number}"
            )
        edges = list(edges_hz.values())
        if not all(isinstance(edge, int | float) and np.isfinite(edge) for edge in edges) or edges != sorted(edges):
            raise ValueError(
                f"expected the frequency edges of annotations as numbers, lower before upper, in {path}, found "
                f"{edges_hz} in annotation {number}"
            )
        parameters = {"annotation_start": start, "annotation_length": length, **edges_hz}
        annotations.append({"label": label, "start": start, "length": length, "parameters": json.dumps(parameters)})
    return annotations, num_left_out


def _plan(folder, window_length, hop):
    """Open every recording and look at every window once. Nothing is kept of the samples."""
    paths = sorted(folder.rglob("*.sigmf-meta"))
    if not paths:
        raise ValueError(f"expected .sigmf-meta files in {folder}, found none")
    items, num_left_out, short = [], 0, []
    for path in paths:
        recording, name = read_sigmf(path), path.relative_to(folder).as_posix()
        num_antennas, num_samples = recording.shape
        annotations, num_incomplete = _read_annotations(path)
        num_left_out += num_incomplete
        if annotations and num_samples < window_length:
            short.append(f"{name} ({num_samples} samples)")
        windows = [
            {"start": start, "label": annotation["label"], "parameters": annotation["parameters"]}
            for annotation in annotations
            for start in annotation_windows(annotation["start"], annotation["length"], num_samples, window_length, hop)
        ]
        for window in windows:  # finds NaN before anything is written
            recording.window(window["start"], window_length)
        if windows:
            items.append(
                {
                    "group": name,
                    "windows": windows,
                    "num_antennas": num_antennas,
                    "sampling_rate_hz": recording.sampling_rate_hz,
                    "center_frequency_hz": recording.center_frequency_hz,
                    "files": [file.relative_to(folder).as_posix() for file in recording.files],
                }
            )
    if not items:
        found = f"found {num_left_out} without, and {len(short)} recordings shorter than {window_length}"
        raise ValueError(f"expected annotations with core:label and core:sample_count in {folder}, {found}")
    if num_left_out:
        warnings.warn(f"left out {num_left_out} annotations of {folder} without label or length", stacklevel=3)
    if short:
        message = f"{len(short)} recordings shorter than {window_length}: {', '.join(short[:20])}"
        warnings.warn(f"left out {message}", stacklevel=3)
    for item in items:
        if item["num_antennas"] != items[0]["num_antennas"]:
            found = " and ".join(f"{other['num_antennas']} in {other['group']}" for other in (items[0], item))
            raise ValueError(f"expected the same number of channels in all recordings of {folder}, found {found}")
    return items


def _rows(folder, window_length, protocol, seed, split, item):
    """Data set rows of one recording."""
    name = item["group"]
    recording = read_sigmf(folder / name)
    columns = {
        "recording": name,
        "group": name,
        "sampling_rate_hz": item["sampling_rate_hz"],
        "center_frequency_hz": item["center_frequency_hz"],
        "source": name,
    }
    for number in wanted_windows(protocol, split, seed, name, len(item["windows"])):
        window = item["windows"][number]
        values = recording.window(window["start"], window_length)
        yield {**columns, **window, "iq": values.view(np.float32).reshape((*values.shape, 2))}


def convert(
    input: str | Path,
    output: str | Path,
    protocol: str = "grouped",
    seed: int = 0,
    num_proc: int = 1,
    window_length: int = 4096,
    hop: int | None = None,
) -> Path:
    """Write the data set of the annotations of a folder of SigMF recordings.

    Args:
        input: folder with `.sigmf-meta` files and their samples, see the module.
        output: the folder to make.
        protocol: "grouped" draws a fifth of the recordings for test and a tenth for validation; "paper" holds out a
            random fifth of the windows.
        window_length, hop: samples of a window, and from one to the next (default: window_length).

    Returns:
        `output`. Column `iq` (antennas, window_length, 2) float32, `label` one of the core:label found.

    Raises:
        ValueError: a recording is not what it must be, no annotation gives a window, or the splits have not the same
            labels; nothing is written then.
    """
    arguments = SigmfAnnotationsArguments(str(input), str(output), protocol, seed, num_proc, window_length, hop)
    folder = Path(input)
    recordings = _plan(folder, window_length, hop or window_length)
    labels_of = {item["group"]: sorted({window["label"] for window in item["windows"]}) for item in recordings}
    split_of = {}
    if protocol == "grouped":
        pairs = [{"file_name": name, "label": label} for name, labels in labels_of.items() for label in labels]
        splits = assign_splits(pairs, test_fraction=0.2, validation_fraction=0.1, seed=seed)
        split_of = {pair["file_name"]: split for pair, split in zip(pairs, splits)}
    items = plan_items(protocol, seed, recordings, split_of, lambda item: (item["group"], len(item["windows"])))

    files = [folder / name for item in recordings for name in item["files"]]
    recipe = {"generator": "processing.sigmf_annotations"}
    recipe |= {name: value for name, value in asdict(arguments).items() if name not in ("input", "output", "num_proc")}
    recipe["files_sha256"] = fingerprint(files, folder)

    features = iq_features(recordings[0]["num_antennas"], window_length, sorted(set().union(*labels_of.values())))
    row_function = partial(_rows, folder, window_length, protocol, seed)
    return write_dataset(output, features, items, row_function, recipe, num_proc)


def main(arguments: list[str] | None = None):
    run_converter(convert, SigmfAnnotationsArguments, arguments, description=__doc__.splitlines()[0])


if __name__ == "__main__":
    main()
