"""Long recordings: what is found, what is written, how much memory it takes."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import sigmf
import torch
from PIL import Image
from transformers.modeling_outputs import ImageClassifierOutput

from modeling_mmwfm import (
    MMWFMConfig,
    MMWFMFeatureExtractor,
    MMWFMForPreTraining,
    MMWFMForSequenceClassification,
    MMWFMModel,
    MMWFMProcessor,
)
from modeling_mmwfm.analysis_mmwfm import Segments, occupied_band
from modeling_mmwfm.analyze import AnalysisArguments, analyze, main
from modeling_mmwfm.finetuning_mmwfm import load_adapted
from modeling_mmwfm.recordings_mmwfm import open_recording
from tests.small_models import RELEASED, SMALL, make
from tests.test_adapters import write_adapter

RATE_HZ, CENTER_HZ, LENGTH = 1e6, 433e6, 512
LABELS = ["noise", "tone", "band, wide"]


def noise(samples, rng):
    return rng.normal(size=(samples, 2)).astype(np.float32).view(np.complex64)[:, 0] * 0.02


def draw(label, samples, rng):
    """Noise alone, a carrier at 0.2 of the sampling rate or a band from -0.3 to -0.1 of it, at 20 dB and more."""
    time = np.arange(samples)
    signal = noise(samples, rng)
    if label == "tone":
        signal += 0.5 * np.exp(2j * np.pi * (0.2 * time + rng.random())).astype(np.complex64)
    if label == "band, wide":
        spectrum = rng.normal(size=(samples, 2)).view(np.complex128)[:, 0]
        spectrum[~((np.fft.fftfreq(samples) > -0.3) & (np.fft.fftfreq(samples) < -0.1))] = 0
        band = np.fft.ifft(spectrum)
        signal += (0.5 * band / band.std()).astype(np.complex64)
    return signal


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that tells the three classes apart."""
    processor = MMWFMProcessor(MMWFMFeatureExtractor(normalization="sample"))
    model = make(MMWFMForSequenceClassification, id2label=dict(enumerate(LABELS))).train()
    optimizer, rng = torch.optim.Adam(model.parameters(), 1e-2), np.random.default_rng(0)
    losses = []
    # Until it does: how many steps that takes depends on how a machine rounds.
    while len(losses) < 500 and (len(losses) < 80 or max(losses[-5:]) > 0.05):
        numbers = rng.integers(3, size=16)
        batch = processor(iq=np.stack([draw(LABELS[number], LENGTH, rng)[None] for number in numbers]))
        loss = model(**batch, labels=torch.from_numpy(numbers)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert max(losses[-5:]) < 0.05
    folder = tmp_path_factory.mktemp("model")
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


PARTS = [("noise", 6000), ("tone", 9000), ("noise", 5000), ("band, wide", 12000), ("tone", 7000), ("noise", 4321)]


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """SigMF recording, 16 bit."""
    rng = np.random.default_rng(1)
    values = np.concatenate([draw(label, samples, rng) for label, samples in PARTS])
    folder = tmp_path_factory.mktemp("capture")
    (folder / "a.b.sigmf-data").write_bytes((values.view(np.float32) * 2**13).astype("<i2").tobytes())
    fields = {"core:datatype": "ci16_le", "core:sample_rate": RATE_HZ, "core:version": "1.0.0", "core:offset": 100}
    captures = [{"core:sample_start": 100, "core:frequency": CENTER_HZ, "core:datetime": "2026-01-01T00:00:00Z"}]
    path = folder / "a.b.sigmf-meta"
    path.write_text(json.dumps({"global": fields | {"core:hw": "sdr"}, "captures": captures, "annotations": []}))
    return path


def arguments(folder, output, **options):
    settings = {"window_length": LENGTH, "background": ["noise"], "min_windows": 3, **options}
    return AnalysisArguments(model=str(folder), output=str(output), **settings)


@pytest.fixture(scope="module")
def written(folder, capture, tmp_path_factory):
    output = tmp_path_factory.mktemp("analysis")
    main([str(capture), "--adapter", str(folder), "--output", str(output), "--window_length", "512"])
    main([str(capture), "--model", str(folder), "--output", str(output / "x"), *("--background", "noise")])
    return analyze(capture, arguments(folder, output))


def test_the_annotations_are_the_parts_of_the_recording(written, capture):
    meta = sigmf.sigmffile.fromfile(written["annotations"], skip_checksum=True)
    meta.validate()
    assert meta.get_global_field("core:hw") == "sdr" and meta.get_captures()[0]["core:frequency"] == CENTER_HZ
    starts = np.cumsum([0, *(samples for _, samples in PARTS)])
    expected = [(label, start, end) for (label, _), start, end in zip(PARTS, starts, starts[1:]) if label != "noise"]
    found = meta.get_annotations()
    assert [entry["core:label"] for entry in found] == [label for label, _, _ in expected]
    for entry, (label, start, end) in zip(found, expected):
        first = entry["core:sample_start"] - 100
        assert abs(first - start) < LENGTH and abs(first + entry["core:sample_count"] - end) < LENGTH
        assert 0.8 < entry["mmwfm:score"] <= 1
        assert entry["core:comment"].startswith(f"score {entry['mmwfm:score']:.3f}")
        low, high = ((entry[f"core:freq_{side}_edge"] - CENTER_HZ) / RATE_HZ for side in ("lower", "upper"))
        if label == "tone":
            assert 0.18 < low < 0.2 < high < 0.22
        else:
            assert low == pytest.approx(-0.3, abs=0.02) and high == pytest.approx(-0.1, abs=0.02)


def test_the_table_has_every_window_with_all_probabilities(written):
    with written["windows"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    num_samples = sum(samples for _, samples in PARTS)
    starts = [int(row["start"]) for row in rows]
    assert starts[:2] == [0, 256] and starts[-1] == num_samples - LENGTH and len(starts) == 169
    for row in rows:
        probabilities = {label: float(row[f"probability_{label}"]) for label in LABELS}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
        assert float(row["score"]) == max(probabilities.values()) == probabilities[row["label"]]
        assert float(row["time_s"]) == pytest.approx(int(row["start"]) / RATE_HZ)
    assert rows[40]["label"] == "tone" and rows[100]["label"] == "band, wide"


def test_the_figure_shows_every_class(written):
    pixels = np.asarray(Image.open(written["figure"]).convert("RGB")).reshape(-1, 3)
    assert len(pixels) > 100_000
    for color in ((174, 199, 232), (255, 127, 14)):  # of tone and band in "tab20"
        assert (np.abs(pixels - np.array(color)).max(1) < 3).sum() > 300


def test_the_result_does_not_depend_on_batches(written, folder, capture, tmp_path):
    again = analyze(capture, arguments(folder, tmp_path, batch_size=5))
    assert again["windows"].read_text().splitlines()[0] == written["windows"].read_text().splitlines()[0]
    tables = [np.genfromtxt(files["windows"], delimiter=",", skip_header=1, usecols=-1) for files in (written, again)]
    np.testing.assert_allclose(*tables, atol=1e-4)
    spans = [
        [(x["core:sample_start"], x["core:sample_count"]) for x in json.loads(path.read_text())["annotations"]]
        for path in (written["annotations"], again["annotations"])
    ]
    assert spans[0] == spans[1]


def test_an_adapter_of_a_model_of_spectra_and_centred_carriers(capture, tmp_path):
    make(MMWFMForPreTraining, **RELEASED).save_pretrained(tmp_path / "base")
    processor = MMWFMProcessor(MMWFMFeatureExtractor(center_carrier=True))
    head = {"id2label": dict(enumerate(LABELS)), "problem_type": "single_label_classification"}
    folder = write_adapter(tmp_path / "base", tmp_path / "adapter", ["iq"], head)
    processor.save_pretrained(folder)
    model = load_adapted(folder)
    files = analyze(capture, arguments(folder, tmp_path / "out", overlap=0.0))
    values = open_recording(capture).window(0, 10 * LENGTH).reshape(10, 1, LENGTH)
    with torch.no_grad():
        expected = model(**processor(iq=values)).logits.softmax(-1)
    with files["windows"].open(newline="") as file:
        rows = list(csv.DictReader(file))[:10]
    found = [[float(row[f"probability_{label}"]) for label in LABELS] for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert expected.std(0).max() > 1e-3  # windows differ


def test_a_short_recording_without_rate_is_one_window(folder, tmp_path):
    values = draw("tone", 300, np.random.default_rng(2))
    (tmp_path / "short.cf32").write_bytes(values.tobytes())
    files = analyze(tmp_path / "short.cf32", arguments(folder, tmp_path / "out", min_windows=1))
    meta = json.loads(files["annotations"].read_text())
    assert meta["global"]["core:datatype"] == "cf32_le" and "core:sample_rate" not in meta["global"]
    (entry,) = meta["annotations"]
    assert (entry["core:label"], entry["core:sample_start"], entry["core:sample_count"]) == ("tone", 0, 300)
    assert "core:freq_lower_edge" not in entry
    assert len(files["windows"].read_text().splitlines()) == 2


def test_memory_does_not_grow_with_the_recording(folder, tmp_path, monkeypatch):
    if not Path("/proc/self/statm").is_file():
        pytest.skip("the resident memory is read from /proc")
    path, megabytes, resident = tmp_path / "zeros.bin", 96, []
    with path.open("wb") as file:
        file.truncate(megabytes * 2**20)
    config = MMWFMConfig(num_labels=2)

    class Silent(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, iq_values, iq_attention_mask):
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)
            return ImageClassifierOutput(logits=torch.zeros(len(iq_values), 2))

    Silent.config = config
    monkeypatch.setattr("modeling_mmwfm.analyze.load_model", lambda name: (Silent(), MMWFMProcessor()))
    options = {"datatype": "cf64_le", "window_length": 2**13, "overlap": 0.0, "batch_size": 8, "background": []}
    files = analyze(path, arguments("silent", tmp_path / "out", **options))
    assert len(resident) == megabytes * 2**16 // 2**13 // 8
    assert max(resident) - resident[2] < megabytes / 3
    (entry,) = json.loads(files["annotations"].read_text())["annotations"]
    assert entry["core:sample_count"] == megabytes * 2**16


def test_what_does_not_fit_is_refused_and_leaves_nothing(folder, capture, tmp_path, capsys):
    rng = np.random.default_rng(3)
    values = draw("tone", 20000, rng)
    values[15000] = np.nan
    (tmp_path / "nan.cf32").write_bytes(values.tobytes())
    output = tmp_path / "out"
    with pytest.raises(ValueError, match="expected finite values in .*nan.cf32"):
        analyze(tmp_path / "nan.cf32", arguments(folder, output, batch_size=4))
    assert list(output.iterdir()) == []
    np.save(tmp_path / "image.npy", np.ones((3, 20, 30)))
    with pytest.raises(ValueError, match="expected IQ or CSI in .*image.npy, found image"):
        analyze(tmp_path / "image.npy", arguments(folder, output))
    with pytest.raises(ValueError, match="expected classes of the model, noise, tone"):
        analyze(capture, arguments(folder, output, background=["nois"]))
    with pytest.raises(ValueError, match="expected 1e\\+06, which"):
        analyze(capture, arguments(folder, output, sampling_rate_hz=2e6))
    with pytest.raises(ValueError, match="expected another `output`"):
        analyze(capture, arguments(folder, capture.parent))
    with pytest.raises(ValueError, match="`overlap`: expected 0 to 0.99, found 1.0"):
        arguments(folder, output, overlap=1.0)
    MMWFMModel(MMWFMConfig(**SMALL)).save_pretrained(tmp_path / "pretrained")
    with pytest.raises(ValueError, match="found one whose head was never trained: .*pretrained"):
        analyze(capture, arguments(tmp_path / "pretrained", output))
    with pytest.raises(SystemExit, match="analyze: error: expected the folder or Hub name of a model, found none"):
        main([str(capture), "--model", str(tmp_path / "absent")])


def test_windows_meet_in_the_middle_and_gaps_end_a_segment():
    segments = Segments(num_samples=100, length=20, min_score=0.5, background=[0])
    rows = [(0, 1, 0.9), (10, 1, 0.7), (20, 2, 0.9), (30, 1, 0.4), (40, 1, 0.8), (50, 0, 1.0), (80, 2, 0.6)]
    for start, label, score in rows:
        segments.add(start, label, score, np.ones(4))
    segments.finish()
    found = [(segment.label, segment.start, segment.end, round(segment.score, 6)) for segment in segments.found]
    assert found == [(1, 0, 25, 0.8), (2, 25, 35, 0.9), (1, 45, 55, 0.8), (2, 75, 100, 0.6)]


def test_the_occupied_band_of_noise_is_all_and_of_a_line_its_bin():
    spectrum = np.ones(100)
    assert occupied_band(spectrum) == (-0.5, 0.5)
    spectrum[70] = 1000
    assert occupied_band(spectrum) == pytest.approx((0.2, 0.21))
