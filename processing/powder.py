"""POWDER (RF fingerprinting of four base stations) -> an IQ data set.

    python -m processing.powder --input GlobecomPOWDER --output DIR

GlobecomPOWDER holds `{4G,5G,WiFi}_Day_{1,2}_{bes,browning,honors,meb}_s{1..5}.bin`, complex64 of one antenna, and
beside each a `.json` like that of SigMF: `global` with core:datatype and core:sample_rate, `captures` with
core:center_frequency, `annotations` with transmitter / core:location, which is the label. Sections may be an object or
a list of one; numbers may be text. What file name and JSON both say must agree.

Recordings are cut into windows of 512 samples side by side; a remainder is left out. "grouped" tests on day 2, which a
model must not have seen, and draws validation recordings of every station from day 1. "paper" draws a fifth of the
windows of both days.

Source: Reus-Muns et al., "Trust in 5G Open RANs through Machine Learning: RF Fingerprinting on the POWDER PAWR
Platform", IEEE GLOBECOM 2020; Northeastern University, hdl 2047/D20385049.
"""

import json
import math
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from processing.converting import ConversionArguments, grouped_splits, plan_items, run_converter, wanted_windows
from processing.recording_folder import window_starts
from processing.recordings import read_recording
from processing.schema import iq_features
from processing.writing import fingerprint, write_dataset

STATIONS = ("bes", "browning", "honors", "meb")
FILE_NAME = re.compile(rf"(4G|5G|WiFi)_Day_([12])_({'|'.join(STATIONS)})_s(\d+)", re.IGNORECASE)
DATATYPES = {"cf32": "cf32_le", "cf32_le": "cf32_le", "cf32_be": "cf32_be"}
WINDOW_LENGTH = 512
VALIDATION_FRACTION = 0.2  # of the recordings of day 1: 3 of the 15 of every station


@dataclass
class PowderArguments(ConversionArguments):
    """What to read and how much of it."""

    max_windows: int | None = field(
        default=None, metadata={"help": "At most so many windows of a recording, evenly spread. Default: all."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.max_windows is not None and self.max_windows < 1:
            raise ValueError(f"expected max_windows >= 1, found {self.max_windows}")


def _section(metadata, name, path):
    section = metadata.get(name) if isinstance(metadata, dict) else None
    if isinstance(section, list) and len(section) == 1:
        section = section[0]
    if not isinstance(section, dict):
        raise ValueError(f"expected one object {name!r} in {path}, found {section!r}")
    return section


def _number(section, name, path, default=None):
    """A number that is not negative, also from text; `default` where there is none."""
    try:
        value = float(section.get(name, default))
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"expected a number >= 0 as {name} in {path}, found {section.get(name)!r}")
    return value


def read_metadata(path: Path) -> dict:
    """What a `.json` file says of its recording.

    Returns:
        "datatype" (SigMF name), "station", "sampling_rate_hz", "center_frequency_hz" (0 if unknown), "num_samples"
        (how many there are at least) and "day" (text, as it stands there).

    Raises:
        ValueError: the file is not JSON of that kind, has no rate or no station, or is of another datatype than cf32.
    """
    try:
        metadata = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON in {path}, found something else: {error}") from error
    common, capture, annotation = (_section(metadata, name, path) for name in ("global", "captures", "annotations"))
    datatype = common.get("core:datatype")
    if str(datatype).lower() not in DATATYPES:
        raise ValueError(f"expected core:datatype {', '.join(DATATYPES)} in {path}, found {datatype!r}")
    station = _section(annotation, "transmitter", path).get("core:location")
    if str(station).strip().lower() not in STATIONS:
        raise ValueError(f"expected transmitter core:location {', '.join(STATIONS)} in {path}, found {station!r}")
    sampling_rate_hz = _number(common, "core:sample_rate", path)
    if sampling_rate_hz == 0:
        raise ValueError(f"expected core:sample_rate > 0 in {path}, found 0")
    return {
        "datatype": DATATYPES[str(datatype).lower()],
        "station": str(station).strip().lower(),
        "sampling_rate_hz": sampling_rate_hz,
        "center_frequency_hz": _number(capture, "core:center_frequency", path, 0),
        "num_samples": _number(annotation, "core:sample_count", path, 0),
        "day": str(capture.get("core:day", "")).strip(),
    }


def _plan(folder, max_windows):
    """One item for each recording, after reading every window of all of them once."""
    stems = sorted(
        {path.relative_to(folder).with_suffix("") for ext in ("bin", "json") for path in folder.glob(f"[!.]*.{ext}")}
    )
    if not stems:
        raise ValueError(f"expected {{4G,5G,WiFi}}_Day_{{1,2}}_<station>_s<n>.bin and .json in {folder}, found none")
    items = []
    for stem in stems:
        path, json_path = folder / f"{stem}.bin", folder / f"{stem}.json"
        match = FILE_NAME.fullmatch(stem.name)
        if match is None:
            raise ValueError(
                f"expected {{4G,5G,WiFi}}_Day_{{1,2}}_<station>_s<n> of {', '.join(STATIONS)}, found {path}"
            )
        for expected, other in ((path, json_path), (json_path, path)):
            if not expected.is_file():
                raise ValueError(f"expected {expected.name} beside {other}, found no such file")
        technology, day, station, number = match[1], int(match[2]), match[3].lower(), int(match[4])
        metadata = read_metadata(json_path)
        other_day = str(3 - day)  # core:day in any other form cannot contradict the name
        if metadata["station"] != station or metadata["day"] == other_day:
            raise ValueError(
                f"expected station {station} and day {day} in {json_path}, by its name; "
                f"found {metadata['station']} and {metadata['day'] or 'no day'}"
            )
        recording = read_recording(path, datatype=metadata["datatype"])
        num_samples = recording.shape[-1]
        least = max(WINDOW_LENGTH, metadata["num_samples"])
        if num_samples < least:
            raise ValueError(f"expected at least {least:.0f} samples in {path}, found {num_samples}: truncated")
        starts = window_starts(num_samples, WINDOW_LENGTH, WINDOW_LENGTH, max_windows)
        for start in starts:  # finds NaN before anything is written
            recording.window(start, WINDOW_LENGTH)
        parameters = {"technology": technology, "day": day, "set": number}
        facts = {name: metadata[name] for name in ("datatype", "sampling_rate_hz", "center_frequency_hz")}
        items.append(
            {"recording": path.name, "group": path.name, "label": station, "parameters": parameters, "starts": starts}
            | facts
        )
    return items


def _split_recordings(folder, items, seed):
    """Recording -> split: day 2 for test, of every station a part of day 1 for validation."""
    stations = {day: {item["label"] for item in items if item["parameters"]["day"] == day} for day in (1, 2)}
    for day, other in ((1, 2), (2, 1)):
        if not stations[day]:
            raise ValueError(
                f"expected recordings of both days in {folder}, day 1 to train and day 2 to test, "
                f"found day {other} only; protocol 'paper' needs no second day"
            )
    if unseen := stations[2] - stations[1]:
        raise ValueError(
            f"expected the stations of day 2 on day 1 too in {folder}, found no {', '.join(sorted(unseen))}"
        )
    first_day = {item["group"]: {item["label"]} for item in items if item["parameters"]["day"] == 1}
    drawn = grouped_splits(first_day, seed, test_fraction=0, validation_fraction=VALIDATION_FRACTION)
    return {item["group"]: "test" for item in items} | drawn


def _rows(folder, protocol, seed, split, item):
    recording = read_recording(folder / item["recording"], datatype=item["datatype"])
    columns = {name: item[name] for name in ("recording", "group", "label", "sampling_rate_hz", "center_frequency_hz")}
    columns |= {"parameters": json.dumps(item["parameters"]), "source": item["recording"]}
    for i in wanted_windows(protocol, split, seed, item["recording"], len(item["starts"])):
        values = recording.window(item["starts"][i], WINDOW_LENGTH)
        yield {**columns, "iq": values.view(np.float32).reshape(1, WINDOW_LENGTH, 2), "start": item["starts"][i]}


def convert(
    input: str | Path,
    output: str | Path,
    protocol: str = "grouped",
    seed: int = 0,
    num_proc: int = 1,
    max_windows: int | None = None,
) -> Path:
    """Write the data set of a folder GlobecomPOWDER, or of the folder that holds it.

    Returns:
        `output`. Column `iq` (1, 512, 2) float32, in the units of the files; `label` one of `STATIONS`; technology,
        day and set (the number of the recording) are in `parameters`.

    Raises:
        ValueError: a file or an option is not what it must be, or "grouped" finds one day only; then nothing is
            written.
    """
    PowderArguments(str(input), str(output), protocol, seed, num_proc, max_windows)
    folder = Path(input)
    folder = folder / "GlobecomPOWDER" if (folder / "GlobecomPOWDER").is_dir() else folder
    items = _plan(folder, max_windows)
    split_of = _split_recordings(folder, items, seed) if protocol == "grouped" else {}
    planned = plan_items(protocol, seed, items, split_of, lambda item: (item["recording"], len(item["starts"])))
    files = [(folder / item["recording"]).with_suffix(suffix) for item in items for suffix in (".bin", ".json")]
    recipe = {
        "generator": "processing.powder",
        "protocol": protocol,
        "seed": seed,
        "max_windows": max_windows,
        "files_sha256": fingerprint(files, folder),
    }
    features = iq_features(1, WINDOW_LENGTH, label_names=STATIONS)
    return write_dataset(output, features, planned, partial(_rows, folder, protocol, seed), recipe, num_proc)


def main(arguments: list[str] | None = None):
    run_converter(convert, PowderArguments, arguments)


if __name__ == "__main__":
    main()
