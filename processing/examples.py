"""The tasks of the demonstration: measured recordings in examples/, read as a user's own would be, and a simulated one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from processing.recording_folder import build_recording_folder
from processing.simulate import simulate
from processing.simulation import pretrain_csi, pretrain_iq

ROOT = Path(__file__).resolve().parents[1]
NUM_OTHERS = 60  # inputs of another kind that each task's head is shown


@dataclass(frozen=True)
class Example:
    """A task of the demonstration.

    Args:
        build: (folder, draw) -> writes its data set. draws: how many splits of it there are.
        settings: of its recipe, beside configuration/tasks/demo.yaml.
        axes: what the model's view of it shows, vertical and horizontal.
    """

    title: str
    text: str
    credit: str
    build: Callable[[Path, int], None]
    draws: bool
    settings: dict
    axes: tuple[str, str]
    seen: str


def build_uwb(folder: Path, draw: int):
    build_recording_folder(ROOT / "examples" / "uwb-los-nlos", folder, window_length=256, seed=draw)


def build_activities(folder: Path, draw: int):
    options = {"kind": "csi", "window_length": 50, "hop": 50, "context": 39, "validation_fraction": 0.2}
    build_recording_folder(ROOT / "examples" / "esp32-activities", folder, **options)


def build_transmitters(folder: Path, draw: int):
    simulate("rfp", folder, 800, num_proc=2)


EXAMPLES = {
    "uwb": Example(
        "Line of sight or not, from one UWB impulse response",
        "Measured in a furnished flat: 256 taps of a channel impulse response of about one nanosecond each. A tag is "
        "never in training and test; each draw holds out others.",
        "Measurements: M. Kołakowski, "
        '<a href="https://doi.org/10.5281/zenodo.4742391">doi:10.5281/zenodo.4742391</a>, CC BY 4.0.',
        build_uwb,
        True,
        {},
        ("frequency", "delay"),
        "The log-spectrum of each segment of 64 taps, as the model reconstructs it.",
    ),
    "activities": Example(
        "Ten activities from the CSI of an ESP32",
        "Measured: one person walks to a chair, sits down, stands up and turns, near either end of a Wi-Fi link. Trained on "
        "20 sequences, tested on 12 that were recorded 10, 20 and 60 minutes later.",
        "Measurements: M. Matey-Sanz et al., IPIN 2023, "
        '<a href="https://doi.org/10.5281/zenodo.7991716">doi:10.5281/zenodo.7991716</a>, Apache-2.0.',
        build_activities,
        False,
        {"image_width": 64},
        ("Doppler by subcarriers", "time"),
        "Doppler over time of 1.28 s, 16 rows for each of seven groups of subcarriers.",
    ),
    "transmitters": Example(
        "Which of four LTE and 5G base stations",
        "Simulated: transmitters of one kind, told apart by the imperfections of their hardware, on another day than those of "
        "the training rows.",
        "",
        build_transmitters,
        False,
        {"center_carrier": False, "normalization": "dataset"},
        ("frequency", "time"),
        "The log-spectrum of each segment of 64 samples, as the model reconstructs it.",
    ),
}


def other_inputs(name: str) -> dict[str, Dataset]:
    """Inputs of kinds that a task's head was not fitted to, as rows of a data set."""
    generator = np.random.default_rng(0)
    if name == "activities":
        rows = [next(iter(pretrain_csi.rows(0, "validation", number))) for number in range(NUM_OTHERS)]
        csi = np.stack([row["image"][..., :128] for row in rows])
        still = 30 + generator.standard_normal(csi.shape).astype(np.float32)
        return {
            "simulated CSI of other rooms": Dataset.from_dict({"csi": list(csi)}).with_format("numpy"),
            "an empty room with noise": Dataset.from_dict({"csi": list(still)}).with_format("numpy"),
        }
    rows = [next(iter(pretrain_iq.rows(0, "validation", number))) for number in range(NUM_OTHERS)]
    signals = np.stack([row["iq"][:1] for row in rows]).astype(np.float32)
    length = 256 if name == "uwb" else signals.shape[2]
    noise = generator.standard_normal(signals.shape).astype(np.float32)
    return {
        "other radio signals": Dataset.from_dict({"iq": list(signals[:, :, :length])}).with_format("numpy"),
        "white noise": Dataset.from_dict({"iq": list(noise[:, :, :length])}).with_format("numpy"),
    }
