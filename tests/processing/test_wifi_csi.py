"""CSI captures written bit by bit as the tools write them -> amplitudes, packet rates, windows; and what is refused."""

import json
import struct

import numpy as np
import pandas as pd
import pytest
from datasets import load_dataset

from processing.wifi_csi import convert, main, read_capture

RATE_HZ = 100
MAC = "94:d9:b3:80:8c:81"


def random_csi(num_packets, num_subcarriers, num_rx, num_tx, bits, seed=0):
    """Whole numbers of `bits` bits with sign: (packets, subcarriers, rx, tx) complex."""
    rng = np.random.default_rng(seed)
    parts = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (2, num_packets, num_subcarriers, num_rx, num_tx))
    return parts[0] + 1j * parts[1]


def pack_bits(numbers_and_widths):
    """Numbers (two's complement), least significant bit first -> bytes."""
    value = position = 0
    for number, width in numbers_and_widths:
        value |= (int(number) & (2**width - 1)) << position
        position += width
    return value.to_bytes(-(-position // 8), "little")


def intel_file(csi, time_us, permutation=(0, 1, 2), rssi_db=(40, 35, 0), noise_dbm=-90, agc_db=30):
    """Code 0xbb: 30 subcarriers of 3 unused bits, then rx by rx and tx by tx 8 bits of real and of imaginary part."""
    content = b""
    for packet, time in zip(csi, time_us):
        _, num_rx, num_tx = packet.shape
        fields = []
        for subcarrier in packet:
            fields.append((0, 3))
            for rx in range(num_rx):
                for value in subcarrier[permutation[rx]]:
                    fields += [(value.real, 8), (value.imag, 8)]
        payload = pack_bits(fields).ljust(60 * num_rx * num_tx + 12, b"\0")
        antennas = sum(antenna << 2 * i for i, antenna in enumerate(permutation))
        header = struct.pack("<IHHBB3BbBBHH", time % 2**32, 7, 0, num_rx, num_tx, *rssi_db, noise_dbm, agc_db, antennas,
                             len(payload), 0x1C13)  # fmt: skip
        record = b"\xbb" + header + payload
        content += struct.pack(">H", len(record)) + record
        content += struct.pack(">H", 1601) + b"\xc1" + bytes(1600)  # the packet itself, where the tool logs it
    return content


def atheros_file(csi, time_us, order="<", payload=b"abc"):
    """Imaginary, then real parts of 10 bits: subcarrier by subcarrier, rx by rx, tx by tx."""
    content = b""
    for packet, time in zip(csi, time_us):
        tones, num_rx, num_tx = packet.shape
        sounding = pack_bits([(part, 10) for value in packet.ravel() for part in (value.imag, value.real)])
        header = struct.pack(order + "QHHBBBBBBBBBBBH", time, len(sounding), 2437, 0, 0, 135, 0, tones, num_rx, num_tx,
                             60, 60, 58, 57, len(payload))  # fmt: skip
        record = header + sounding + payload
        content += struct.pack(order + "H", len(record)) + record
    return content


def nexmon_file(csi, time_us, magic=b"\xd4\xc3\xb2\xa1", marker=b"\x11\x11\x11\x11", link=1):
    """One UDP frame for every core and stream; int16 of real and of imaginary part (chips 4339 and 43455c0)."""
    order = "<" if magic[0] in b"\xd4\x4d" else ">"
    ticks = 1000 if b"\x3c" in magic else 1
    content = magic + struct.pack(order + "HHiIII", 2, 4, 0, 0, 65535, link)
    for sequence, (packet, time) in enumerate(zip(csi, time_us)):
        _, num_cores, num_streams = packet.shape
        frames = [b"\xff" * 6 + b"OTHERS" + bytes(30)]  # traffic that is no CSI
        for core in range(num_cores):
            for stream in range(num_streams):
                values = packet[:, core, stream]
                values = np.stack([values.real, values.imag], -1).astype("<i2").tobytes()
                header = marker + b"\1\2\3\4\5\6" + struct.pack("<HHHH", sequence, core | stream << 3, 0xE02A, 0x65)
                frames.append(b"\xff" * 6 + b"NEXMON" + b"\x08\0" + bytes(28) + header + values)
        for frame in frames:
            seconds, microseconds = divmod(int(time), 10**6)
            content += struct.pack(order + "4I", seconds, microseconds * ticks, len(frame), len(frame)) + frame
    return content


def esp32_file(csi, time_us, fields=25, header=True):
    """Imaginary, then real parts of 8 bits, in decimal."""
    names = "type,seq,mac,rssi,rate,sig_mode,mcs,bandwidth,smoothing,not_sounding,aggregation,stbc,fec_coding,sgi," \
        "noise_floor,ampdu_cnt,channel,secondary_channel,local_timestamp,ant,sig_len,rx_state,len,first_word,data"  # fmt: skip
    lines = ["I (300) wifi:mode : sta", *([names] if header else [])]
    for sequence, (packet, time) in enumerate(zip(csi, time_us)):
        parts = [int(part) for value in packet.ravel() for part in (value.imag, value.real)]
        time %= 2**32
        if fields == 25:
            before = f"CSI_DATA,{sequence},{MAC},-30,11,1,6,1,0,1,0,1,0,0,-93,0,13,2,{time},0,67,0,{len(parts)},1"
            lines.append(f'{before},"[{",".join(map(str, parts))}]"')
        elif fields == 15:
            before = f"CSI_DATA,{sequence},{MAC},-30,11,-93,12,5,13,{time},67,0,{len(parts)},1"
            lines.append(f'{before},"[{",".join(map(str, parts))}]"')
        else:  # ESP32-CSI-Tool
            before = f"CSI_DATA,AP,{MAC},-30,11,1,6,1,0,1,0,1,0,0,-93,0,13,2,{time},0,67,0,1,12.5,{len(parts)}"
            lines.append(f"{before},[{' '.join(map(str, parts))} ]")
    return ("\n".join(lines) + "\n").encode()


def times(num_packets, start=2**32 - 25000):
    """Regular, with one packet lost, and over the end of a clock of 32 bits."""
    return [start + (i + (i > 5)) * 10**6 // RATE_HZ for i in range(num_packets)]


def expected_amplitude(csi):
    num_packets, num_subcarriers, num_rx, num_tx = csi.shape
    flat = np.abs(csi).astype(np.float32).reshape(num_packets, num_subcarriers, num_rx * num_tx)
    return flat.transpose(2, 1, 0)


CAPTURES = {
    "atheros": (random_csi(12, 56, 3, 2, 10), atheros_file, {}),
    "atheros 40 MHz, big endian": (random_csi(12, 114, 1, 1, 10), atheros_file, {"order": ">"}),
    "nexmon": (random_csi(12, 64, 1, 1, 12), nexmon_file, {}),
    "nexmon 4 x 2": (random_csi(12, 128, 4, 2, 12), nexmon_file, {"magic": b"\xa1\xb2\x3c\x4d"}),
    "nexmon 2021": (random_csi(12, 256, 2, 1, 12), nexmon_file, {"marker": b"\x11\x11\xd8\x80"}),
    "esp32": (random_csi(12, 64, 1, 1, 8), esp32_file, {}),
    "esp32 no header": (random_csi(12, 192, 1, 1, 8), esp32_file, {"header": False}),
    "esp32 C6": (random_csi(12, 64, 1, 1, 8), esp32_file, {"header": False, "fields": 15}),
    "esp32 CSI-Tool": (random_csi(12, 64, 1, 1, 8), esp32_file, {"header": False, "fields": 26}),
}


@pytest.mark.parametrize("name", CAPTURES)
def test_amplitudes_and_packet_rate(tmp_path, name):
    csi, write, options = CAPTURES[name]
    (tmp_path / "capture").write_bytes(write(csi, times(12), **options))
    capture = read_capture(tmp_path / "capture", name.split()[0], "43455c0")
    np.testing.assert_allclose(capture.amplitude, expected_amplitude(csi), rtol=1e-6)
    assert (capture.amplitude.dtype, capture.num_left_out) == (np.float32, 0)
    assert capture.packet_rate_hz == pytest.approx(RATE_HZ)


@pytest.mark.parametrize(
    ("num_rx", "num_tx", "permutation"), [(3, 1, (2, 0, 1)), (2, 3, (1, 0, 2)), (1, 2, (0, 1, 2))]
)
def test_intel_amplitude_is_the_root_of_the_signal_to_noise_ratio(tmp_path, num_rx, num_tx, permutation):
    csi = random_csi(12, 30, num_rx, num_tx, 8)
    for agc_db, noise_dbm in [(30, -90), (50, -127)]:
        content = intel_file(csi, times(12), permutation, noise_dbm=noise_dbm, agc_db=agc_db)
        (tmp_path / "capture.dat").write_bytes(content)
        capture = read_capture(tmp_path / "capture.dat", "intel")
        # Antennas come in their own order, whatever chain received them: all ratios within a packet are kept.
        shape = expected_amplitude(csi)
        scale = capture.amplitude / np.where(shape > 0, shape, 1)
        np.testing.assert_allclose(scale, np.broadcast_to(scale.max((0, 1)), scale.shape) * (shape > 0), rtol=1e-5)
        # Over all antennas the power is that of the signal, -44 dBm and the gain below the sum of two antennas' RSSI,
        # over the noise at the antennas and that of the converter, one step for every stream and antenna.
        received_mw = (10**4 + 10**3.5) * 10 ** (-(44 + agc_db) / 10)
        thermal_mw = 10 ** ((-92 if noise_dbm == -127 else noise_dbm) / 10)
        power_steps = np.sum(np.abs(csi) ** 2, axis=(1, 2, 3)) / 30
        noise_mw = thermal_mw + received_mw / power_steps * num_rx * num_tx
        streams = {1: 1, 2: 2, 3: 10**0.45}[num_tx]
        found = np.sum(capture.amplitude.astype(float) ** 2, axis=(0, 1)) / 30
        np.testing.assert_allclose(found, received_mw / noise_mw * streams, rtol=1e-5)
        assert capture.packet_rate_hz == pytest.approx(RATE_HZ)


def test_an_invalid_permutation_is_no_permutation(tmp_path):
    csi = random_csi(3, 30, 2, 1, 8)
    valid = intel_file(csi, times(3), (0, 1, 2))
    invalid = valid.replace(bytes([30, 0b100100]), bytes([30, 0b111111]))
    assert invalid != valid
    (tmp_path / "valid.dat").write_bytes(valid)
    (tmp_path / "invalid.dat").write_bytes(invalid)
    valid, invalid = (read_capture(tmp_path / f"{name}.dat", "intel").amplitude for name in ("valid", "invalid"))
    np.testing.assert_array_equal(valid, invalid)


@pytest.mark.parametrize(("chip", "mantissa", "exponent"), [("4358", 9, 5), ("4366c0", 12, 6)])
def test_nexmon_floats_keep_the_shape_of_the_channel(tmp_path, chip, mantissa, exponent):
    """These chips report sign, mantissa and a common exponent; the tool gives them up to a power of two."""
    rng = np.random.default_rng(0)
    real, imaginary = rng.integers(2 ** (mantissa - 2), 2 ** (mantissa - 1), (2, 64))
    words = real << exponent + mantissa | imaginary << exponent | rng.integers(0, 2, 64) << exponent + 2 * mantissa - 1
    frame = words.astype("<u4").view("<i2").reshape(64, 2).astype(float)
    csi = (frame[:, 0] + 1j * frame[:, 1])[None, :, None, None]
    (tmp_path / "a.pcap").write_bytes(nexmon_file(csi, times(1)))
    amplitude = read_capture(tmp_path / "a.pcap", "nexmon", chip).amplitude[0, :, 0]
    ratio = amplitude / np.hypot(real, imaginary)
    assert amplitude.max() > 0 and ratio.max() / ratio.min() == pytest.approx(1, rel=0.02)


def test_packets_of_another_layout_are_left_out_and_counted(tmp_path):
    csi, beacons = random_csi(9, 30, 3, 2, 8), random_csi(2, 30, 3, 1, 8)
    content = intel_file(beacons[:1], [0]) + intel_file(csi, times(9)) + intel_file(beacons[1:], [0])
    (tmp_path / "a.dat").write_bytes(content)
    capture = read_capture(tmp_path / "a.dat", "intel")
    assert (capture.amplitude.shape, capture.num_left_out) == ((6, 30, 9), 2)
    assert capture.packet_rate_hz == pytest.approx(RATE_HZ)
    # A frame of one antenna is lost: the packet is no packet.
    csi = random_csi(9, 64, 2, 1, 12)
    content = nexmon_file(csi, times(9))
    (tmp_path / "a.pcap").write_bytes(content[: -(16 + 42 + 18 + 64 * 4)])
    capture = read_capture(tmp_path / "a.pcap", "nexmon", "43455c0")
    np.testing.assert_allclose(capture.amplitude, expected_amplitude(csi)[..., :8])
    assert capture.num_left_out == 1


def test_frames_of_one_sequence_number_are_packets_of_their_own(tmp_path):
    """Retransmissions, and firmware that leaves the number at 0."""
    csi = random_csi(6, 64, 2, 1, 12)
    header, *packets = nexmon_file(csi[:0], []), *(nexmon_file(csi[i : i + 1], [i])[24:] for i in range(6))
    (tmp_path / "a.pcap").write_bytes(header + b"".join(packets))  # each begins with sequence number 0
    capture = read_capture(tmp_path / "a.pcap", "nexmon", "43455c0")
    np.testing.assert_allclose(capture.amplitude, expected_amplitude(csi))


def test_the_clock_begins_again(tmp_path):
    (tmp_path / "a.dat").write_bytes(intel_file(random_csi(2, 30, 1, 1, 8), [2**32 - 4000, 2**32 + 6000]))
    assert read_capture(tmp_path / "a.dat", "intel").packet_rate_hz == pytest.approx(100)


def test_without_time_the_rate_is_unknown(tmp_path):
    (tmp_path / "a.csv").write_bytes(esp32_file(random_csi(5, 64, 1, 1, 8), [0] * 5))
    assert read_capture(tmp_path / "a.csv", "esp32").packet_rate_hz == 0


CONTENT = {
    "intel": intel_file(random_csi(4, 30, 3, 1, 8), times(4)),
    "atheros": atheros_file(random_csi(4, 56, 3, 1, 10), times(4)),
    "nexmon": nexmon_file(random_csi(4, 64, 1, 1, 12), times(4)),
    "esp32": esp32_file(random_csi(4, 64, 1, 1, 8), times(4)),
}


@pytest.mark.parametrize("content", CONTENT)
@pytest.mark.parametrize("tool", CONTENT)
def test_captures_of_another_tool_are_refused(tmp_path, tool, content):
    (tmp_path / "a.dat").write_bytes(CONTENT[content])
    if tool == content:
        read_capture(tmp_path / "a.dat", tool, "43455c0")
        return
    with pytest.raises(ValueError, match="expected .* in .*a.dat, found "):
        read_capture(tmp_path / "a.dat", tool, "43455c0")


@pytest.mark.parametrize("tool", CONTENT)
def test_truncated_and_damaged_captures_are_refused(tmp_path, tool):
    content = CONTENT[tool]
    path = tmp_path / "a.dat"
    for length in (len(content) - 2, len(content) - 70, 1, 0):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="expected .* in .*a.dat, found "):
            read_capture(path, tool, "43455c0")
    # Whatever the bytes are, it is read or refused: never a crash of the decoder.
    rng = np.random.default_rng(0)
    num_refused = 0
    for _ in range(100):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 3):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            read_capture(path, tool, "43455c0")
        except ValueError as error:
            assert "a.dat, found" in str(error)
            num_refused += 1
    assert num_refused > 0


@pytest.mark.parametrize(
    ("tool", "change", "match"),
    [
        ("esp32", (b"[", b"[200,"), "129 of 128 numbers in line 3"),
        ("esp32", (b",128,1", b",12,1"), "128 of 12 numbers in line 3"),
        ("esp32", (b'"[', b'"'), "no list in brackets"),
        ("esp32", (b",-30,", b","), "24 fields, not the 25"),
        ("nexmon", (b"\xd4\xc3\xb2\xa1", b"\x0a\x0d\x0d\x0a"), "expected a .pcap .* begin with"),
        ("nexmon", (struct.pack("<II", 65535, 1), struct.pack("<II", 65535, 105)), "link type 105"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, tool, change, match):
    assert change[0] in CONTENT[tool]
    (tmp_path / "a.dat").write_bytes(CONTENT[tool].replace(*change, 1))
    with pytest.raises(ValueError, match=match):
        read_capture(tmp_path / "a.dat", tool, "43455c0")


def test_tool_and_chip_must_be_named(tmp_path):
    (tmp_path / "a.dat").write_bytes(CONTENT["nexmon"])
    with pytest.raises(ValueError, match="expected tool intel, atheros, nexmon, esp32 for .*a.dat, found 'pico'"):
        read_capture(tmp_path / "a.dat", "pico")
    with pytest.raises(ValueError, match="expected chip 4339.* for .*a.dat, found None"):
        read_capture(tmp_path / "a.dat", "nexmon")


def make_folder(folder, num_captures=12, num_packets=20, **columns):
    """Nexmon captures of two labels; value of every subcarrier of packet p of capture c: 3 (100 c + p) + 4j (...)."""
    folder.mkdir()
    rows = []
    for i in range(num_captures):
        csi = np.tile((3 + 4j) * (100 * i + np.arange(num_packets))[:, None, None, None], (1, 64, 1, 1))
        (folder / f"{i:02d}.pcap").write_bytes(nexmon_file(csi, times(num_packets)))
        row = {"file_name": f"{i:02d}.pcap", "label": "ab"[i % 2], "tool": "nexmon", "chip": "4339", "group": f"g{i}"}
        rows.append(row | {name: value(i) for name, value in columns.items()})
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    return folder


def rows_of(output):
    return [row for part in load_dataset(str(output)).values() for row in part]


def test_windows(tmp_path):
    folder = make_folder(tmp_path / "in")
    path = convert(folder, tmp_path / "out", window_length=8, hop=6, num_proc=2)
    parts = load_dataset(str(path))
    assert {name: len(part) for name, part in parts.items()} == {"train": 27, "validation": 3, "test": 6}
    assert parts["train"].features["csi"].shape == (1, 64, 8) and parts["train"].features["label"].names == [
        "a",
        "b",
    ]
    for row in rows_of(path):
        i = int(row["recording"][:2])
        assert (row["label"], row["group"], row["source"]) == (i % 2, f"g{i}", row["recording"])
        assert (row["sampling_rate_hz"], row["center_frequency_hz"]) == (pytest.approx(RATE_HZ), 0)
        assert json.loads(row["parameters"]) == {"chip": "4339", "tool": "nexmon"}
        expected = np.tile(5 * (100 * i + row["start"] + np.arange(8)), (1, 64, 1))
        np.testing.assert_array_equal(row["csi"], expected)
    assert sorted(row["start"] for row in rows_of(path)) == sorted([0, 6, 12] * 12)
    one = convert(folder, tmp_path / "one", window_length=8, hop=6)
    assert rows_of(one) == rows_of(path)


def test_named_splits_positions_and_the_paper_protocol(tmp_path):
    columns = {
        "split": lambda i: ["train", "validation", "test"][i % 3],
        "sampling_rate_hz": lambda i: 50,
        "x_m": lambda i: i / 2,
        "y_m": lambda i: -1,
    }
    folder = make_folder(tmp_path / "in", **columns)
    for row in rows_of(convert(folder, tmp_path / "out", window_length=10)):
        i = int(row["recording"][:2])
        assert row["split"] == ["train", "validation", "test"][i % 3]
        assert (row["sampling_rate_hz"], row["position"]) == (50, [i / 2, -1])
    rows = rows_of(convert(folder, tmp_path / "paper", protocol="paper", window_length=2))
    assert {row["split"] for row in rows} == {"train", "validation"}
    assert len({(row["recording"], row["start"]) for row in rows}) == len(rows) == 120
    assert 10 < sum(row["split"] == "validation" for row in rows) < 40


def test_bad_folders_leave_nothing(tmp_path):
    folder, output = make_folder(tmp_path / "in"), tmp_path / "out"
    table = pd.read_csv(folder / "metadata.csv")

    def refused(match, **options):
        with pytest.raises(ValueError, match=match):
            convert(folder, output, **({"window_length": 8} | options))
        assert not output.exists()

    refused("expected captures of at least one window in .*12 of 12 captures are shorter than 21", window_length=21)
    refused("expected hop >= 1, found 0", hop=0)
    # A seed by which none of the few windows is in the fifth.
    refused("expected windows for train and validation, found none of .* drawn for validation", protocol="paper", seed=21,
            window_length=20)  # fmt: skip
    for column, match in [
        ("tool", "expected a tool in every row"),
        ("chip", "found None"),
        ("label", "found neither"),
    ]:
        table.drop(columns=column).to_csv(folder / "metadata.csv", index=False)
        refused(match)
    table.to_csv(folder / "metadata.csv", index=False)
    (folder / "03.pcap").write_bytes(nexmon_file(random_csi(20, 128, 1, 1, 12), times(20)))
    refused(r"same channels and subcarriers .* found \(1, 64\) in 00.pcap and \(1, 128\) in 03.pcap")
    (folder / "03.pcap").write_bytes((folder / "02.pcap").read_bytes()[:-1])
    refused("expected whole nexmon records in .*03.pcap, found 315 of 316 bytes at byte")


def test_short_captures_are_named(tmp_path):
    folder = make_folder(tmp_path / "in")
    (folder / "03.pcap").write_bytes(nexmon_file(random_csi(7, 64, 1, 1, 12), times(7)))
    with pytest.warns(UserWarning, match=r"1 of 12 captures are shorter than 8: 03.pcap \(7 packets\)"):
        path = convert(folder, tmp_path / "out", window_length=8)
    assert len({row["recording"] for row in rows_of(path)}) == 11


def test_command_line(tmp_path, capsys):
    folder = make_folder(tmp_path / "in")
    main(["--input", str(folder), "--output", str(tmp_path / "out"), "--window_length", "10"])
    assert capsys.readouterr().out.split()[-1] == str(tmp_path / "out")
    with pytest.raises(SystemExit):
        main(["--input", str(folder), "--output", str(tmp_path / "other"), "--window_length", "100"])
    assert "found none: 12 of 12 captures are shorter" in capsys.readouterr().err
