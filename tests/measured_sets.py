"""Measured sets (NPZ archives) as folders of recordings, and these as data sets by `processing.recording_folder`.

    python -m tests.measured_sets --data ../shared/data --output runs/measured
    python training_scripts/benchmark.py configuration/recipes/benchmark-measured.yaml --output_dir runs/measured/benchmark

Splits are those of the sources (ISM-433), or leave one user (CSI-HAR) or chip (ESP32) out; no validation split is named,
so that the builder draws it from the training recordings.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import uniform_filter1d

from processing.recording_folder import build_recording_folder


def export_ism433(npz: str | Path, folder: str | Path, clean: bool = False) -> Path:
    """145 recordings of 10 ISM devices at 250 kS/s -> `.cu8`, 32768 samples each, one group per recording.

    `clean=True` writes `.cf32` without what gives a receiver away, see `clean_recording`.
    """
    with np.load(npz) as archive:
        data = dict(archive)
    folder, rows = Path(folder), []
    rate_hz, rng = float(data["sample_rate"]), np.random.default_rng(0)
    for iq, label, recording, split in zip(data["iq"], data["label"], data["recording"], data["split"], strict=True):
        file_name = Path(recording).with_suffix(".cf32" if clean else ".cu8").as_posix()
        (folder / file_name).parent.mkdir(parents=True, exist_ok=True)
        if clean:
            signal = ((iq.astype(np.float32) - 127.5) / 128).view(np.complex64)[:, 0]
            iq = clean_recording(signal, rate_hz, rng)
        iq.tofile(folder / file_name)
        rows.append({"file_name": file_name, "label": label, "group": recording, "split": split})
    return _write_metadata(folder, rows, sampling_rate_hz=float(data["sample_rate"]))


def clean_recording(signal: np.ndarray, rate_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Complex (T,) with the carrier at 0 Hz and nothing left of receiver spurs, DC and filter shape but near the carrier.

    Bins farther than 0.2 of the sampling rate from the carrier (the peak of the smoothed power spectrum) and those within
    150 Hz of DC become white noise at the floor's level; a random carrier shift can then be confounded with neither.
    """
    spectrum = np.fft.fft(signal)
    frequency_hz = np.fft.fftfreq(len(signal), 1 / rate_hz)
    power = np.abs(spectrum) ** 2
    peak = int(np.argmax(uniform_filter1d(power, max(4, len(signal) // 64), mode="wrap")))
    distance_hz = (frequency_hz - frequency_hz[peak] + rate_hz / 2) % rate_hz - rate_hz / 2
    replaced = (np.abs(distance_hz) > 0.2 * rate_hz) | (np.abs(frequency_hz) <= 150)
    floor = np.median(power) / np.log(2)  # the median of an exponential distribution is ln 2 of its mean
    noise = rng.standard_normal((len(signal), 2)) @ [1, 1j] * np.sqrt(floor / 2)
    return np.fft.ifft(np.roll(np.where(replaced, noise, spectrum), -peak)).astype(np.complex64)


def export_csi_har(
    npz: str | Path, folder: str | Path, num_packets: int | None = 256, test_user: int | None = None
) -> Path:
    """420 recordings of 7 activities -> `.npy` amplitude (1, 52, num_packets) float32; test is an unseen user: 3 in the
    source, `test_user` if given.

    A recording (275 to 550 packets) is one whole activity and may have its event anywhere, so it is resampled as a
    whole instead of being cut into windows that can miss the event. `num_packets=None` keeps the packets as they are.
    """
    with np.load(npz) as archive:
        data = dict(archive)
    folder, rows = Path(folder), []
    amplitudes = np.split(data["amp_x2"].astype(np.float32) * data["scale"], data["offsets"][1:-1])
    columns = zip(amplitudes, *(data[name] for name in ("label", "recording", "user", "split")), strict=True)
    for amplitude, label, recording, user, split in columns:
        if test_user is not None:
            split = "test" if user == test_user else "train"
        resampled = amplitude if num_packets is None else _resample(amplitude, num_packets)
        file_name = _write_array(folder, recording, resampled.T[None])
        row = {"file_name": file_name, "label": label, "group": recording, "split": split}
        rows.append({**row, "user": user, "num_packets": len(amplitude)})
    return _write_metadata(folder, rows)


def export_esp32_motion(npz: str | Path, folder: str | Path, test_chip: str | None = None) -> Path:
    """20 recordings with and without motion on 5 chips -> `.npy` amplitude (1, 64, packets) float32.

    One group per recording; the source names no split. `test_chip` ("c3", "c5", "c6", "esp32", "s3") is left out for
    test.
    """
    with np.load(npz) as archive:
        data = dict(archive)
    folder, rows = Path(folder), []
    parts = data["csi_i8"].astype(np.float32).reshape(-1, 64, 2)
    amplitudes = np.split(np.hypot(parts[..., 0], parts[..., 1]), data["offsets"][1:-1])
    columns = zip(amplitudes, data["label"], data["recording"], data["chip"], strict=True)
    for amplitude, label, recording, chip in columns:
        file_name = _write_array(folder, Path(recording).stem, amplitude.T[None])
        row = {"file_name": file_name, "label": label, "group": recording, "chip": chip}
        rows.append(row if test_chip is None else {**row, "split": "test" if chip == test_chip else "train"})
    return _write_metadata(folder, rows)


CHIPS = ("c3", "c5", "c6", "esp32", "s3")
# data set -> archive, its export with options, and how the recordings are cut
SETS = {
    "ism433-4096": ("ism433_devices_dev", export_ism433, {}, {"window_length": 4096}),
    "ism433-4096-clean": ("ism433_devices_dev", export_ism433, {"clean": True}, {"window_length": 4096}),
    "ism433-32768": ("ism433_devices_dev", export_ism433, {}, {"window_length": 32768}),
    **{
        f"csi-har-user{user}": ("csi_har_rpi4_amplitude", export_csi_har, {"test_user": user}, {})
        for user in (1, 2, 3)
    },
    **{
        f"esp32-{chip}": ("csi_esp32_motion", export_esp32_motion, {"test_chip": chip}, {"window_length": 200})
        for chip in CHIPS
    },
}


def build_sets(data: Path, output: Path) -> list[Path]:
    """Every measured set as a data set in `output / "data"`; what exists is left alone."""
    for name, (archive, export, options, cut) in SETS.items():
        if not (output / "data" / name).exists():
            folder = export(data / f"{archive}.npz", output / "recordings" / name, **options)
            # A quarter for validation where recordings are few, so that both classes are in it.
            few = {"validation_fraction": 0.25} if name.startswith("esp32") else {}
            build_recording_folder(folder, output / "data" / name, **cut, **few)
    return [output / "data" / name for name in SETS]


def _resample(rows, num_rows):
    """(T, width) -> (num_rows, width) by linear interpolation, ends kept."""
    position = np.linspace(0, len(rows) - 1, num_rows)
    before = np.minimum(position.astype(int), len(rows) - 2)
    share = (position - before)[:, None].astype(np.float32)
    return rows[before] * (1 - share) + rows[before + 1] * share


def _write_array(folder, name, array):
    path = folder / f"{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path.relative_to(folder).as_posix()


def _write_metadata(folder, rows, **constants):
    pd.DataFrame(rows).assign(**constants).to_csv(folder / "metadata.csv", index=False)
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the NPZ archives")
    parser.add_argument("--output", type=Path, required=True, help="folder for recordings and data sets")
    arguments = parser.parse_args()
    for folder in build_sets(arguments.data, arguments.output):
        print(folder)


if __name__ == "__main__":
    main()
