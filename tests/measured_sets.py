"""Export measured sets (NPZ archives) as folders of recordings for `processing.recording_folder`.

    python -m tests.measured_sets --data ../shared/data --output DIR

Labels and splits are those of the sources; no validation split is named, so that the builder draws it from train.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd


def export_ism433(npz: str | Path, folder: str | Path) -> Path:
    """145 recordings of 10 ISM devices at 250 kS/s -> `.cu8`, 32768 samples each, one group per recording."""
    with np.load(npz) as archive:
        data = dict(archive)
    folder, rows = Path(folder), []
    for iq, label, recording, split in zip(data["iq"], data["label"], data["recording"], data["split"], strict=True):
        file_name = Path(recording).with_suffix(".cu8").as_posix()
        (folder / file_name).parent.mkdir(parents=True, exist_ok=True)
        iq.tofile(folder / file_name)
        rows.append({"file_name": file_name, "label": label, "group": recording, "split": split})
    return _write_metadata(folder, rows, sampling_rate_hz=float(data["sample_rate"]))


def export_csi_har(npz: str | Path, folder: str | Path, num_packets: int | None = 256) -> Path:
    """420 recordings of 7 activities -> `.npy` amplitude (1, 52, num_packets) float32; test is an unseen user.

    A recording (275 to 550 packets) is one whole activity and may have its event anywhere, so it is resampled as a
    whole instead of being cut into windows that can miss the event. `num_packets=None` keeps the packets as they are.
    """
    with np.load(npz) as archive:
        data = dict(archive)
    folder, rows = Path(folder), []
    amplitudes = np.split(data["amp_x2"].astype(np.float32) * data["scale"], data["offsets"][1:-1])
    columns = zip(amplitudes, *(data[name] for name in ("label", "recording", "user", "split")), strict=True)
    for amplitude, label, recording, user, split in columns:
        resampled = amplitude if num_packets is None else _resample(amplitude, num_packets)
        file_name = _write_array(folder, recording, resampled.T[None])
        row = {"file_name": file_name, "label": label, "group": recording, "split": split}
        rows.append({**row, "user": user, "num_packets": len(amplitude)})
    return _write_metadata(folder, rows)


def export_esp32_motion(npz: str | Path, folder: str | Path) -> Path:
    """20 recordings with and without motion on 5 chips -> `.npy` amplitude (1, 64, packets) float32.

    One group per recording; the source names no split.
    """
    with np.load(npz) as archive:
        data = dict(archive)
    folder, rows = Path(folder), []
    parts = data["csi_i8"].astype(np.float32).reshape(-1, 64, 2)
    amplitudes = np.split(np.hypot(parts[..., 0], parts[..., 1]), data["offsets"][1:-1])
    columns = zip(amplitudes, data["label"], data["recording"], data["chip"], strict=True)
    for amplitude, label, recording, chip in columns:
        file_name = _write_array(folder, Path(recording).stem, amplitude.T[None])
        rows.append({"file_name": file_name, "label": label, "group": recording, "chip": chip})
    return _write_metadata(folder, rows)


EXPORTS = {
    "ism433_devices_dev": export_ism433,
    "csi_har_rpi4_amplitude": export_csi_har,
    "csi_esp32_motion": export_esp32_motion,
}


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
    parser.add_argument("--output", type=Path, required=True, help="folder for one sub-folder per archive")
    arguments = parser.parse_args()
    for name, export in EXPORTS.items():
        print(export(arguments.data / f"{name}.npz", arguments.output / name))


if __name__ == "__main__":
    main()
