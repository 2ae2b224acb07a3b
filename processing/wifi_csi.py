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

Column `image`: (rx * tx, subcarriers, window_length) float32, channel rx * num_tx + tx, subcarriers in the order of the
tool. Amplitude: for Intel the square root of the signal-to-noise ratio (automatic gain undone); for the others the
number that the chip reports, whose gain is not known. `sampling_rate_hz` is packets per second, by the median interval
between packets; 0 where the capture holds no usable time. `start` is the first packet of the window.
"""

import csv
import json
import math
import struct
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import csiread
import numpy as np

from processing.converting import ConversionArguments, plan_items, run_converter, wanted_windows
from processing.recording_folder import assign_splits, read_metadata, window_starts
from processing.schema import image_features
from processing.writing import fingerprint, write_dataset

# Magic of a pcap file -> byte order and ticks of its sub-second field in a microsecond.
PCAP_MAGIC = {
    b"\xd4\xc3\xb2\xa1": ("<", 1),
    b"\xa1\xb2\xc3\xd4": (">", 1),
    b"\x4d\x3c\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\x3c\x4d": (">", 1000),
}
NEXMON_CHIPS = ("4339", "43455c0", "4358", "4366c0")
NEXMON_BANDWIDTH_MHZ = {64: 20, 128: 40, 256: 80}  # by the number of subcarriers
# Fields of a line after which it is told where no header names them: -> (time stamp in microseconds, length, values).
ESP32_FIELDS = {25: (18, 22, 24), 15: (9, 12, 14), 26: (18, 24, 25)}  # esp-csi; its C5, C6; ESP32-CSI-Tool


@dataclass
class WifiCsiArguments(ConversionArguments):
    window_length: int = field(default=256, metadata={"help": "Packets of a window."})
    hop: int | None = field(default=None, metadata={"help": "Packets from window to window. Default: window_length."})

    def __post_init__(self):
        super().__post_init__()
        for name in ("window_length", "hop"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, found {getattr(self, name)}")


@dataclass(frozen=True)
class Capture:
    """Attributes: amplitude (rx * tx, subcarriers, packets) float32; packet_rate_hz, 0 unknown; packets left out."""

    amplitude: np.ndarray
    packet_rate_hz: float
    num_left_out: int


def _broken(path, tool, position, found):
    return ValueError(
        f"expected whole {tool} records in {path}, found {found} at byte {position}: truncated, or of another tool"
    )


# Each reader below yields (time in microseconds, amplitude (subcarriers, rx, tx)) of every packet. They check every
# length themselves: csiread trusts the file, and would read and write outside its buffers.


def _intel_packets(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Records: length (2 bytes, big endian), code, content; code 0xbb is CSI."""
    data, position = path.read_bytes(), 0
    decoder = csiread.Intel(None, nrxnum=3, ntxnum=3, if_report=False)
    while position < len(data):
        length = int.from_bytes(data[position : position + 2], "big")
        record = data[position + 2 : position + 2 + length]
        if length < 1 or len(record) < length:
            raise _broken(path, "intel", position, f"{len(record)} of {length} bytes")
        if record[0] == 0xBB:
            if length < 21:
                raise _broken(path, "intel", position, f"CSI in {length} bytes")
            time_us, num_rx, num_tx, *rssi_db, noise_dbm, agc_db, permutation, csi_length = struct.unpack_from(
                "<I4xBB3BbBBH", record, 1
            )
            if not (1 <= num_rx <= 3 and 1 <= num_tx <= 3 and 60 * num_rx * num_tx + 12 == csi_length == length - 21):
                raise _broken(path, "intel", position, f"{num_rx} x {num_tx} antennas in {csi_length} bytes of CSI")
            antennas = [permutation >> 2 * antenna & 3 for antenna in range(num_rx)]
            if sorted(antennas) != list(range(num_rx)):  # not valid: as they come, like the tool's own reader
                record = record[:16] + b"\x24" + record[17:]
            decoder.pmsg(record)
            amplitude = np.abs(decoder.csi[0, :, :num_rx, :num_tx])
            yield time_us, amplitude * _intel_scale(amplitude, rssi_db, noise_dbm, agc_db)
        position += 2 + length


def _intel_scale(amplitude, rssi_db, noise_dbm, agc_db):
    """Factor from CSI in steps of the converter to the root of the signal-to-noise ratio, as the 802.11n CSI Tool."""
    num_subcarriers, num_rx, num_tx = amplitude.shape
    csi_power = np.sum(amplitude**2) / num_subcarriers
    received_mw = sum(10 ** (rssi / 10) for rssi in rssi_db if rssi) * 10 ** (-(44 + agc_db) / 10)
    if csi_power == 0 or received_mw == 0:
        return 0.0
    step_mw = received_mw / csi_power
    thermal_mw = 10 ** ((-92 if noise_dbm == -127 else noise_dbm) / 10)
    quantisation_mw = step_mw * num_rx * num_tx
    transmit_power = {1: 1, 2: 2, 3: 10**0.45}[num_tx]  # shared by the streams; the chip takes 4.5 dB for three
    return math.sqrt(step_mw / (thermal_mw + quantisation_mw) * transmit_power)


def _atheros_packets(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Records: length (2 bytes), header (25 bytes), CSI, payload; in the byte order of the receiver."""
    data, position = path.read_bytes(), 0
    # No magic tells the byte order: it is the one in which the numbers of the first record add up.
    order = next((order for order in "<>" if _atheros_header(data, 0, order) is not None), "<")
    decoders = {tones: csiread.Atheros(None, nrxnum=3, ntxnum=3, tones=tones, if_report=False) for tones in (56, 114)}
    while position < len(data):
        header = _atheros_header(data, position, order)
        if header is None:
            raise _broken(path, "atheros", position, f"{min(27, len(data) - position)} bytes that are no header")
        time_us, length, csi_length, tones, num_rx, num_tx = header
        record = data[position + 2 : position + 2 + length]
        if len(record) < length:
            raise _broken(path, "atheros", position, f"{len(record)} of {length} bytes")
        if csi_length:  # otherwise a packet without a sounding
            # The decoder reads whole 16 bit words.
            decoders[tones].pmsg(record + bytes(2), endian={"<": "little", ">": "big"}[order])
            yield time_us, np.abs(decoders[tones].csi[0, :, :num_rx, :num_tx])
        position += 2 + length


def _atheros_header(data, position, order):
    """(time, record length, CSI length, tones, rx, tx), or None where the numbers do not fit together."""
    if len(data) - position < 27:
        return None
    length, time_us, csi_length, tones, num_rx, num_tx, payload_length = struct.unpack_from(
        order + "HQH6xBBB4xH", data, position
    )
    if length != 25 + csi_length + payload_length:
        return None
    if csi_length and not (
        tones in (56, 114) and 1 <= num_rx <= 3 and 1 <= num_tx <= 3 and 2 * csi_length == 5 * tones * num_rx * num_tx
    ):
        return None
    return time_us, length, csi_length, tones, num_rx, num_tx


def _nexmon_frames(path, chip):
    """(time in microseconds, sequence number, (core, stream), amplitude (subcarriers,)) of every CSI frame."""
    data, position = path.read_bytes(), 24
    order, ticks = PCAP_MAGIC.get(data[:4], (None, None))
    if order is None or len(data) < 24:
        raise ValueError(f"expected a .pcap capture of nexmon in {path}, found it to begin with {data[:4]!r}")
    if (link := struct.unpack_from(order + "I", data, 20)[0]) != 1:
        raise ValueError(f"expected a capture of Ethernet frames (link type 1) in {path}, found link type {link}")
    decoders = {}
    while position < len(data):
        if len(data) - position < 16:
            raise _broken(path, "nexmon", position, f"{len(data) - position} of 16 bytes")
        seconds, fraction, length, wire_length = struct.unpack_from(order + "4I", data, position)
        frame = data[position + 16 : position + 16 + length]
        if len(frame) < length:
            raise _broken(path, "nexmon", position, f"{len(frame)} of {length} bytes")
        # Ethernet, IP and UDP take 42 bytes; the firmware writes its name as the sender. Magic, then CSI from byte 18.
        message = frame[42:]
        if frame[6:12] == b"NEXMON" and message[:2] == b"\x11\x11":
            num_subcarriers = (len(message) - 18) // 4
            if wire_length != length or len(message) != 18 + 4 * num_subcarriers:
                raise _broken(path, "nexmon", position, f"{length} of {wire_length} bytes of a frame")
            if num_subcarriers not in NEXMON_BANDWIDTH_MHZ:
                raise _broken(path, "nexmon", position, f"{num_subcarriers} subcarriers, not 64, 128 or 256")
            # Since 2021 the second half of the magic is signal strength and frame control.
            decoder_class = csiread.Nexmon if message[:4] == b"\x11\x11\x11\x11" else csiread.NexmonPull46
            key = decoder_class, NEXMON_BANDWIDTH_MHZ[num_subcarriers]
            if key not in decoders:
                decoders[key] = decoder_class(None, chip=chip, bw=key[1], if_report=False)
            decoders[key].pmsg(message)
            sequence = int.from_bytes(message[10:12], "little")
            bits = message[12] | message[13]  # one of the two bytes is zero
            stream = bits & 7, bits >> 3 & 7
            yield seconds * 10**6 + fraction // ticks, sequence, stream, np.abs(decoders[key].csi[0])
        position += 16 + length


def _nexmon_packets(path: Path, chip: str) -> Iterator[tuple[int, np.ndarray]]:
    """A packet is one frame for every pair of core (receive antenna) and spatial stream, of one sequence number."""
    packets = []
    for time_us, sequence, stream, amplitude in _nexmon_frames(path, chip):
        key = sequence, len(amplitude)
        if not packets or packets[-1][1] != key or stream in packets[-1][2]:
            packets.append((time_us, key, {}))
        packets[-1][2][stream] = amplitude
    for time_us, _, parts in packets:  # with fewer antennas where a frame was lost
        yield time_us, np.stack([parts[stream] for stream in sorted(parts)], axis=-1)[..., None]


def _esp32_packets(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Lines that begin with CSI_DATA; the console may have left others between them, among them one with the names."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"expected lines of text of esp32 in {path}, found other bytes: {error}") from error
    names = next((line.strip().split(",") for line in lines if line.startswith("type,")), [])
    for number, line in enumerate(lines, 1):
        if not line.startswith("CSI_DATA"):
            continue
        try:
            cells = next(csv.reader([line], strict=True))
            if names and len(names) != len(cells):
                raise ValueError(f"{len(cells)} fields, not the {len(names)} of the header")
            if names and {"local_timestamp", "len", "data"} <= set(names):
                time, length, values = (names.index(name) for name in ("local_timestamp", "len", "data"))
            elif len(cells) in ESP32_FIELDS:
                time, length, values = ESP32_FIELDS[len(cells)]
            else:
                raise ValueError(f"{len(cells)} fields, not {', '.join(map(str, ESP32_FIELDS))}")
            text = cells[values].strip()
            if not (text.startswith("[") and text.endswith("]")):
                raise ValueError(f"no list in brackets but {text[:20]!r}")
            components = np.array([int(value) for value in text[1:-1].replace(",", " ").split()])
            if len(components) != int(cells[length]) or len(components) % 2 or len(components) == 0:
                raise ValueError(f"{len(components)} of {cells[length]} numbers")
            if components.min() < -128 or components.max() > 127:
                raise ValueError(f"numbers from {components.min()} to {components.max()}, not of 8 bits")
            time_us = int(cells[time])
        except (ValueError, csv.Error) as error:
            raise ValueError(
                f"expected whole esp32 lines in {path}, found {error} in line {number}: truncated, or of another tool"
            ) from error
        yield time_us, np.hypot(components[0::2], components[1::2])[:, None, None]


TOOLS = {
    "intel": _intel_packets,
    "atheros": _atheros_packets,
    "nexmon": _nexmon_packets,
    "esp32": _esp32_packets,
}


def read_capture(path: str | Path, tool: str, chip: str | None = None) -> Capture:
    """Read one capture.

    Packets of another number of antennas or subcarriers than most in the capture (beacons, other bandwidths) are left
    out and counted.

    Args:
        path: the file that the tool wrote.
        tool: "intel", "atheros", "nexmon" or "esp32".
        chip: for "nexmon": "4339", "43455c0", "4358" or "4366c0".

    Raises:
        ValueError: the file is truncated, empty or of another tool, or the chip is missing or unknown.
    """
    path = Path(path)
    if tool not in TOOLS:
        raise ValueError(f"expected tool {', '.join(TOOLS)} for {path}, found {tool!r}")
    if tool == "nexmon" and chip not in NEXMON_CHIPS:
        raise ValueError(f"expected chip {', '.join(NEXMON_CHIPS)} for {path}, found {chip!r}")
    reader = partial(TOOLS[tool], chip=chip) if tool == "nexmon" else TOOLS[tool]
    times_us, amplitudes = [], []
    for time_us, amplitude in reader(path):
        times_us.append(time_us)
        amplitudes.append(amplitude.astype(np.float32))
    if not amplitudes:
        raise ValueError(f"expected CSI of {tool} in {path}, found none in {path.stat().st_size} bytes")
    ((shape, count),) = Counter(amplitude.shape for amplitude in amplitudes).most_common(1)
    kept = [i for i, amplitude in enumerate(amplitudes) if amplitude.shape == shape]
    amplitude = np.stack([amplitudes[i] for i in kept])  # (packets, subcarriers, rx, tx)
    amplitude = amplitude.transpose(2, 3, 1, 0).reshape(-1, shape[0], count)
    # The clocks of the chips count microseconds in 32 bits and begin again after 72 minutes.
    intervals_us = np.diff([times_us[i] % 2**32 for i in kept]) % 2**32
    median_us = float(np.median(intervals_us)) if len(intervals_us) else 0.0
    rate_hz = 1e6 / median_us if median_us else 0.0
    return Capture(np.ascontiguousarray(amplitude), rate_hz, len(amplitudes) - count)


def _plan(folder, rows, window_length, hop):
    """Read every capture once: rows with what the writer needs. Nothing is kept of the amplitudes."""
    planned, left_out = [], []
    for row in rows:
        path, parameters = folder / row["file_name"], json.loads(row["parameters"])
        if "tool" not in parameters:
            raise ValueError(
                f"expected a tool in every row of {folder / 'metadata.csv'}, found none for {path.name!r}"
            )
        chip = str(parameters["chip"]) if "chip" in parameters else None
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
        yield {**columns, "image": amplitude[..., start : start + window_length], "start": start}


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
        `output`. Column `image` (rx * tx, subcarriers, window_length) float32.

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
    features = image_features(*rows[0]["shape"], window_length, label_names=labels, position_axes=axes)
    row_function = partial(_rows, folder, window_length, protocol, seed)
    return write_dataset(output, features, items, row_function, recipe, num_proc)


def main(arguments: list[str] | None = None):
    run_converter(convert, WifiCsiArguments, arguments, description=__doc__.splitlines()[0])


if __name__ == "__main__":
    main()
