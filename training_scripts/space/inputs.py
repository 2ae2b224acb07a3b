"""What a person drops on the page, or picks, -> the first samples of one recording."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeling_mmwfm.recordings_mmwfm import RAW_SUFFIXES, SUFFIXES, open_recording

MAX_VALUES = 2**18  # read of a recording of any size: antennas x samples, or channels x rows x columns
EXAMPLES = Path(__file__).parent / "examples"


@dataclass(frozen=True)
class Signal:
    """The beginning of a recording.

    Attributes:
        kind: "iq" or "image".
        values: (A, T) complex64, or (C, H, W) float32.
        length: samples (columns) of the whole recording.
        sampling_rate_hz, center_frequency_hz: 0 where they are not known; of CSI the rate is that of the packets.
        task, label: of a bundled example.
    """

    name: str
    kind: str
    values: np.ndarray
    length: int
    sampling_rate_hz: float = 0.0
    center_frequency_hz: float = 0.0
    task: str = ""
    label: str = ""


def read_signal(path: Path, datatype: str | None = None, num_antennas: int = 1, rate_hz: float = 0.0) -> Signal:
    """The first `MAX_VALUES` values of a file; `rate_hz` is taken where it does not say one.

    Raises:
        ValueError: the file is not what its name says, or has too many antennas, channels or rows.
    """
    suffix = path.suffix.lower()
    options = {"datatype": datatype} if suffix in RAW_SUFFIXES else {}
    if suffix in (*RAW_SUFFIXES, ".wav"):
        options["num_antennas"] = num_antennas
    recording = open_recording(path, **options)
    *others, length = recording.shape
    columns = MAX_VALUES // int(np.prod(others))
    if columns < 16:
        raise ValueError(f"expected less than {MAX_VALUES // 16} values at each instant in {path}, found {others}")
    values = recording.window(0, min(length, columns))
    rate_hz = recording.sampling_rate_hz or rate_hz
    return Signal(path.name, recording.kind, values, length, rate_hz, recording.center_frequency_hz)


def read_upload(files: list[str], datatype: str | None, num_antennas: int, rate_hz: float) -> Signal:
    """One file, or the two of a SigMF recording.

    Raises:
        ValueError: as `read_signal`, or other than these files; without the folders of the server in the message.
    """
    paths = [Path(file) for file in files]
    suffixes = sorted(path.suffix.lower() for path in paths)
    if len(paths) > 1 and suffixes != [".sigmf-data", ".sigmf-meta"]:
        names = ", ".join(path.name for path in paths)
        raise ValueError(
            f"expected one recording (two files only for SigMF: .sigmf-meta and .sigmf-data), found {names}"
        )
    if suffixes == [".sigmf-data"] or suffixes == [".sigmf-meta"]:
        raise ValueError(f"expected .sigmf-meta and .sigmf-data dropped together, found {paths[0].name} alone")
    if not set(suffixes) <= set(SUFFIXES):
        raise ValueError(f"expected a recording ({', '.join(SUFFIXES)}), found {paths[0].name}")
    # Each upload lies in a folder of its own; the two of SigMF must lie together.
    with tempfile.TemporaryDirectory() as folder:
        links = [Path(folder) / path.name for path in paths]
        for link, path in zip(links, paths):
            link.symlink_to(path)
        try:
            return read_signal(links[0], datatype or None, num_antennas, rate_hz)
        except ValueError as error:
            raise ValueError(str(error).replace(f"{folder}/", "")) from error


def read_examples() -> tuple[list[Signal], list[Signal]]:
    """The bundled examples: those that are shown, and all others, which are compared with."""
    shown, others = [], []
    for entry in json.loads((EXAMPLES / "examples.json").read_text()):
        signal = read_signal(EXAMPLES / entry["file"], rate_hz=entry["sampling_rate_hz"])
        fields = {**vars(signal), "task": entry["task"], "label": entry["label"]}
        (shown if entry["shown"] else others).append(Signal(**fields))
    return shown, others
