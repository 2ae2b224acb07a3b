"""Make the bundled examples anew: `python -m training_scripts.space.make_examples`, from the root of the repository.

Files of `examples/` come from the project's simulators under fixed seeds; CSI is cut from `examples/esp32-activities` of
the repository, which was measured. Each is a recording of its own, at most 100 kB: IQ as (T, 2) integers, images as
(C, H, W), CSI as (subcarriers, packets); `examples.json` says what each is.
"""

import csv
from pathlib import Path

import numpy as np

from modeling_mmwfm.files_mmwfm import write_json
from processing.simulation import has, impairments, interference, positioning, pretrain_iq, random_generator, rfp, rfs

FOLDER = Path(__file__).parent / "examples"
MAX_BYTES = 100_000
SEED, SPLIT = 0, "test"  # transmitters and rooms belong to the seed: this is that of the recipes
MODULATIONS = "bpsk qpsk 16qam 4fsk bluetooth gsm lora fm on-off-keying wifi lte dsss-bpsk".split()
MODULATION_SAMPLES, MODULATION_SNR_DB = 2048, 24
SERVICES = {"bluetooth": 2, "ads-b": 2, "lora": 2, "wifi": 1, "fm": 1, "ais": 1, "morse": 1}  # how many of each
ACTIVITIES = ["clean", "walk"]
ACTIVITY_PACKETS = 280  # of 500: what fits into a file
MEASURED = Path(__file__).parents[2] / "examples" / "esp32-activities"
MEASURED_BY = "Matey-Sanz et al., Apache-2.0"
MEASURED_SESSION = "D4"  # the last one; of each activity so many, the first is shown
MEASURED_ACTIVITIES = {
    "WALKING_RX": 2,
    "WALKING_TX": 1,
    "SEATED_RX": 1,
    "STANDING_UP_RX": 1,
    "TURN_TX": 1,
    "SITTING_DOWN_TX": 1,
}


def integers(iq: np.ndarray, dtype) -> np.ndarray:
    """Complex (T,) -> (T, 2) at full scale; relative levels within a recording are kept."""
    pairs = np.stack([iq.real, iq.imag], -1)
    return np.round(pairs / np.abs(pairs).max() * np.iinfo(dtype).max).astype(dtype)


def modulation(name: str, number: int) -> dict:
    rng = random_generator(SEED, "space", name, number)
    samples, rate_hz = pretrain_iq.MODULATIONS[name][0](rng, MODULATION_SAMPLES)
    samples = samples * impairments.carrier_offset(len(samples), rng.uniform(-0.01, 0.01) * rate_hz, rate_hz)
    samples = impairments.awgn(rng, samples, MODULATION_SNR_DB)
    return {"array": integers(samples, np.int8), "label": name, "sampling_rate_hz": rate_hz}


def iq_row(row: dict, names: list[str]) -> dict:
    """Absolute levels stay: they tell interference."""
    array = np.round(row["iq"][0] * np.iinfo(np.int16).max).astype(np.int16)
    return {"array": array, "label": names[row["label"]], "sampling_rate_hz": row["sampling_rate_hz"]}


def first_of_class(task, name: str, count: int) -> list[dict]:
    found = []
    for index in range(10000):
        row = next(iter(task.rows(SEED, SPLIT, index)))
        if task.LABEL_NAMES[row["label"]] == name:
            found.append(row)
            if len(found) == count:
                return found
    raise ValueError(f"expected rows of class {name}, found too few")


def measured_csi() -> list[dict]:
    """Whole activities, 8 bit amplitudes as they are there."""
    with (MEASURED / "metadata.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["session"] == MEASURED_SESSION]
    made = []
    for name, count in MEASURED_ACTIVITIES.items():
        for row in [row for row in rows if row["label"] == name][:count]:
            array = np.load(MEASURED / row["file_name"])[:, int(row["start"]) : int(row["stop"])]
            facts = {"label": name.lower().replace("_", "-"), "sampling_rate_hz": row["sampling_rate_hz"]}
            made.append({"array": array, **facts, "kind": "csi", "source": MEASURED_BY})
    return made


def make_all() -> list[tuple[str, dict]]:
    """(task, example) in the order of the page."""
    made = [("modulation", modulation(name, number)) for name in MODULATIONS for number in range(3)]
    for index in (0, 1, 2, 3, 4, 5):
        row = next(iter(interference.rows(SEED, SPLIT, index)))
        made.append(("interference", iq_row(row, interference.LABEL_NAMES)))
    for number in range(8):
        row = next(iter(rfp.rows(SEED, SPLIT, (number, 1))))
        made.append(("rfp", iq_row(row, rfp.LABEL_NAMES)))
    for name, count in SERVICES.items():
        for row in first_of_class(rfs, name, count):
            made.append(("rfs", {"array": np.round(row["image"]).astype(np.int8), "label": name}))
    for task in (positioning.OUTDOOR, positioning.INDOOR):
        rows = list(task.rows(SEED, SPLIT, (0, 40)))
        for row in rows[::20][:2]:
            label = "({}) m".format(", ".join(f"{axis:.1f}" for axis in row["position"]))
            made.append((task.TASK, {"array": row["image"].astype(np.float16), "label": label}))
    for name in ACTIVITIES:
        row = first_has(name)
        array = np.round(row["image"][..., :ACTIVITY_PACKETS]).astype(np.int8)
        rate_hz = row.get("packet_rate_hz") or row["sampling_rate_hz"]
        made.append(("has", {"array": array, "label": name, "sampling_rate_hz": rate_hz}))
    return made + [("csi", example) for example in measured_csi()]


def first_has(name: str) -> dict:
    items = has.plan({SPLIT: has.ROWS_PER_ROOM})[SPLIT]
    for item in items:
        for row in has.rows(SEED, SPLIT, item):
            if has.LABEL_NAMES[row["label"]] == name:
                return row
    raise ValueError(f"expected a row of class {name}, found none")


def main():
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.npy"):
        path.unlink()
    entries, counts = [], {}
    for task, example in make_all():
        is_position = task.startswith("pos")
        stem = task if is_position else f"{task}-{example['label']}"
        number = counts[stem] = counts.get(stem, -1) + 1
        path = FOLDER / f"{stem}-{number}.npy"
        np.save(path, example["array"])
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"expected at most {MAX_BYTES} bytes in {path}, found {path.stat().st_size}")
        entry = {"file": path.name, "task": task, "label": example["label"]}
        entry["sampling_rate_hz"] = float(example.get("sampling_rate_hz", 0))
        entry |= {name: example[name] for name in ("kind", "source") if name in example}
        only_compared = task == "rfs" and SERVICES[example["label"]] == 1
        only_compared |= task == "csi" and any(entry["task"] == "csi" for entry in entries)
        entries.append(entry | {"shown": number == 0 and not only_compared})
    write_json(FOLDER / "examples.json", entries)
    print(f"{len(entries)} examples in {FOLDER}: {sum(p.stat().st_size for p in FOLDER.iterdir()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
