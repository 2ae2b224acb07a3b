"""Captures of Wi-Fi CSI tools: Intel 5300, Atheros, Nexmon and ESP32 -> amplitude over time.

ESP32 needs NumPy alone; the decoders of the others are those of the package csiread.
"""

import csv
import math
import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

try:
    import csiread
except ImportError:
    csiread = None

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
# Suffixes of captures; what a file is, its content says.
CSI_SUFFIXES = (".pcap", ".csv", ".dat")


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
    if tool != "esp32" and csiread is None:
        raise ValueError(f"expected the package csiread, which decodes {path}, found none: `pip install csiread`")
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


def capture_tool(path: str | Path) -> str | None:
    """The tool that wrote a file, by its content; None: none that is known."""
    with Path(path).open("rb") as file:
        start = file.read(2**16)
    if start[:4] in PCAP_MAGIC:
        return "nexmon"
    if any(_atheros_header(start, 0, order) is not None for order in "<>"):
        return "atheros"
    if len(start) > 2 and start[2] in (0xBB, 0xC1) and int.from_bytes(start[:2], "big") > 1:
        return "intel"
    return "esp32" if re.search(rb"^(\xef\xbb\xbf)?CSI_DATA,", start, re.MULTILINE) else None
