"""What a person drops on the page, or picks, -> the first samples of one recording."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeling_mmwfm.csi_captures_mmwfm import CSI_SUFFIXES
from modeling_mmwfm.processing_mmwfm import as_csi
from modeling_mmwfm.recordings_mmwfm import RAW_SUFFIXES, SUFFIXES, open_recording

MAX_VALUES = 2**18  # read of a recording of any size: antennas x samples, or channels x rows x columns
MAX_CAPTURE_BYTES = 2**25  # a capture of CSI is decoded as a whole, packet by packet: seconds
MAX_SUBCARRIERS = 4096  # the distances between all of them are computed
EXAMPLES = Path(__file__).parent / "examples"


@dataclass(frozen=True)
class Signal:
    """The beginning of a recording.

    Attributes:
        kind: "iq", "image" or "csi".
        values: (A, T) complex64, (C, H, W) float32, or linear CSI (A, subcarriers, packets) complex64 or float32.
        length: samples (columns, packets) of the whole recording.
        sampling_rate_hz, center_frequency_hz: 0 where they are not known; of CSI the rate is that of the packets.
        task, label: of a bundled example.
        source: of an example that was measured: by whom, and its licence.
    """

    name: str
    kind: str
    values: np.ndarray
    length: int
    sampling_rate_hz: float = 0.0
    center_frequency_hz: float = 0.0
    task: str = ""
    label: str = ""
    source: str = ""


def read_signal(
    path: Path,
    datatype: str | None = None,
    num_antennas: int = 1,
    rate_hz: float = 0.0,
    kind: str | None = None,
    chip: str | None = None,
) -> Signal:
    """The first `MAX_VALUES` values of a file; `rate_hz` is taken where it does not say one.

    Args:
        datatype, num_antennas, kind, chip: see `open_recording`.

    Raises:
        ValueError: the file is not what its name says, or has too many antennas, channels, rows or bytes.
    """
    suffix = path.suffix.lower()
    options = {"datatype": datatype} if suffix in RAW_SUFFIXES else {}
    if suffix in (*RAW_SUFFIXES, ".wav"):
        options["num_antennas"] = num_antennas
    if suffix in CSI_SUFFIXES and path.stat().st_size > MAX_CAPTURE_BYTES:
        raise ValueError(
            f"expected a capture of at most {MAX_CAPTURE_BYTES:,} bytes, found {path.stat().st_size:,} in {path}"
        )
    recording = open_recording(path, kind=kind, chip=chip, **options)
    *others, length = recording.shape
    columns = MAX_VALUES // int(np.prod(others))
    if columns < 16:
        raise ValueError(f"expected less than {MAX_VALUES // 16} values at each instant in {path}, found {others}")
    if recording.kind == "csi" and others[1] > MAX_SUBCARRIERS:
        raise ValueError(f"expected at most {MAX_SUBCARRIERS} subcarriers in {path}, found {others[1]}: transpose it")
    values = recording.window(0, min(length, columns))
    if recording.kind == "csi":
        values = as_csi(values).numpy()
        with np.errstate(over="ignore"):
            if not np.isfinite(np.abs(values)).all():
                raise ValueError(f"expected CSI of finite amplitude in {path}, found values up to {abs(values).max()}")
    rate_hz = recording.sampling_rate_hz or rate_hz
    return Signal(path.name, recording.kind, values, length, rate_hz, recording.center_frequency_hz)


def read_upload(
    files: list[str],
    datatype: str | None,
    num_antennas: int,
    rate_hz: float,
    kind: str | None = None,
    chip: str | None = None,
) -> Signal:
    """One file, or the two of a SigMF recording; options as of `read_signal`.

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
            return read_signal(links[0], datatype or None, num_antennas, rate_hz, kind or None, chip or None)
        except ValueError as error:
            raise ValueError(str(error).replace(f"{folder}/", "")) from error


def read_examples() -> tuple[list[Signal], list[Signal]]:
    """The bundled examples: those that are shown, and all others, which are compared with."""
    shown, others = [], []
    for entry in json.loads((EXAMPLES / "examples.json").read_text()):
        signal = read_signal(EXAMPLES / entry["file"], rate_hz=entry["sampling_rate_hz"], kind=entry.get("kind"))
        fields = {**vars(signal), **{name: entry.get(name, "") for name in ("task", "label", "source")}}
        (shown if entry["shown"] else others).append(Signal(**fields))
    return shown, others
