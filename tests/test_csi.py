"""CSI as an input of its own: what the view takes away, what it keeps, and every way into the model."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import pipeline

from modeling_mmwfm import (
    MMWFMFeatureExtractor,
    MMWFMForSequenceClassification,
    MMWFMImageProcessor,
    MMWFMProcessor,
    csi_captures_mmwfm,
)
from modeling_mmwfm.analyze import AnalysisArguments, analyze
from modeling_mmwfm.embed import EmbeddingArguments, embed, list_recordings, open_row
from modeling_mmwfm.pipeline_mmwfm import MMWFMFeatureExtractionPipeline
from modeling_mmwfm.processing_mmwfm import CSI_VIEW
from modeling_mmwfm.recordings_mmwfm import open_recording
from processing.wifi_csi import read_capture
from tests.processing.test_wifi_csi import atheros_file, esp32_file, intel_file, nexmon_file, random_csi, times
from tests.small_models import make

RATE_HZ = 100.0
SMALL_VIEW = {**CSI_VIEW, "doppler": {"num_groups": 2, "window": 32, "bins": 8}, "size": {"height": 16, "width": 16}}


def paths(frequency_hz, packets=400, subcarriers=56, antennas=2, share=0.2, rate_hz=RATE_HZ, seed=0):
    """A static channel and one path whose length changes so that it turns `frequency_hz` times a second, complex."""
    rng = np.random.default_rng(seed)
    place = np.linspace(0, 1, subcarriers)[None, :, None]
    static = 20 * np.exp(2j * np.pi * (2 * place + rng.random((antennas, 1, 1))))
    turns = frequency_hz * np.arange(packets) / rate_hz + 9 * place + rng.random((antennas, 1, 1))
    return static * (1 + 0.3 * np.cos(3 * place)) + 20 * share * np.exp(2j * np.pi * turns)


def noisy(values, level=0.01, seed=1):
    rng = np.random.default_rng(seed)
    return values + level * (rng.standard_normal(values.shape) + 1j * rng.standard_normal(values.shape))


@pytest.fixture(scope="module")
def processor():
    return MMWFMProcessor()


def view(processor, csi, **options):
    return processor(csi=csi, **options)["pixel_values"].numpy()


def test_phases_at_random_and_either_unit_are_the_same_to_the_model(processor):
    csi = noisy(paths(7.0))
    amplitude = np.abs(csi)
    expected = view(processor, amplitude)
    assert expected.shape == (1, 1, 112, 128) and expected.std() > 0.3
    phases = np.exp(2j * np.pi * np.random.default_rng(2).random(csi.shape))
    decibels = 20 * np.log10(amplitude / 100)  # most of them negative
    for found in (
        view(processor, amplitude * phases),
        view(processor, decibels, unit="db"),
        view(processor, decibels),
        view(processor, decibels + 80, unit="db"),  # none of them negative
        view(processor, amplitude, unit="linear"),
        view(processor, torch.from_numpy(amplitude)),
    ):
        np.testing.assert_allclose(found, expected, atol=5e-3)
    assert np.abs(view(processor, decibels + 80) - expected).max() > 0.1  # without a word it is taken for linear


def test_units_that_contradict_the_values_are_refused(processor):
    with pytest.raises(ValueError, match="`unit`: expected 'linear' for complex CSI, found 'db'"):
        processor(csi=paths(3.0), unit="db")
    with pytest.raises(ValueError, match="`unit`: expected 'linear', 'db' or None, found 'dBm'"):
        processor(csi=np.abs(paths(3.0)), unit="dBm")
    with pytest.raises(ValueError, match="`csi_to_db`: expected linear CSI, found values that are in dB already"):
        MMWFMImageProcessor(csi_to_db=True)(np.abs(paths(3.0)), unit="db")


@pytest.mark.parametrize("packets", [1, 2, 31, 32, 33, 10_000])
@pytest.mark.parametrize("subcarriers", [1, 2, 7, 114])
def test_any_number_of_packets_and_subcarriers_has_one_size(processor, packets, subcarriers):
    pixels = view(processor, noisy(paths(3.0, packets, subcarriers, antennas=1)))
    assert pixels.shape == (1, 1, 112, 128) and np.isfinite(pixels).all() and np.abs(pixels).max() < 20


def test_gains_of_packets_and_the_static_channel_leave_nothing(processor):
    csi = paths(6.0)
    rng = np.random.default_rng(3)
    expected = view(processor, csi)
    gains = 10 ** rng.uniform(-0.4, 0.4, (2, 1, 400))  # 16 dB by antenna and packet
    np.testing.assert_allclose(view(processor, csi * gains), expected, atol=0.02)
    channel = 10 ** rng.uniform(-0.4, 0.4, (2, 56, 1))  # shallow enough that every subcarrier is in use
    np.testing.assert_allclose(view(processor, csi * channel), expected, atol=0.02)
    still = view(processor, paths(0.0) * gains)
    assert still.std() < 1e-3 < expected.std()


@pytest.mark.parametrize(("frequency_hz", "rate_hz"), [(12.5, 100.0), (25.0, 100.0), (25.0, 200.0), (40.0, 160.0)])
def test_a_moving_path_lies_in_the_bin_of_its_doppler(frequency_hz, rate_hz):
    plain = MMWFMProcessor(csi_processor={**CSI_VIEW, "normalization": "none"})
    image = view(plain, paths(frequency_hz, rate_hz=rate_hz, share=0.1), packet_rate_hz=rate_hz)
    power = image.reshape(7, 16, 128).mean(2)
    assert set(power.argmax(1)) == {round(32 * frequency_hz / rate_hz)}


def test_antennas_become_one_channel_whatever_their_order_and_number(processor):
    csi = noisy(paths(5.0, antennas=3))
    pixels = view(processor, csi)
    assert pixels.shape[1] == 1
    np.testing.assert_allclose(view(processor, csi[[2, 0, 1]]), pixels, atol=1e-4)
    np.testing.assert_allclose(view(processor, np.concatenate([csi, csi])), pixels, atol=1e-4)
    np.testing.assert_allclose(view(processor, csi[0]), view(processor, csi[:1]), atol=0)


def test_lists_of_unequal_shapes_and_batches_give_what_each_gives_alone(processor):
    csi = [noisy(paths(5.0, 300, 56, 2)), noisy(paths(9.0, 40, 30, 3)), noisy(paths(2.0, 300, 56, 2, seed=5))]
    alone = np.concatenate([view(processor, values) for values in csi])
    np.testing.assert_allclose(view(processor, csi), alone, atol=1e-4)
    np.testing.assert_allclose(view(processor, np.stack([csi[0], csi[2]])), alone[[0, 2]], atol=1e-4)
    rates = [100.0, 0.0, 333.0]  # one for each; not converted unless asked to
    np.testing.assert_allclose(view(processor, csi, packet_rate_hz=rates), alone, atol=1e-4)
    assert isinstance(processor(csi=csi, return_tensors="np")["pixel_values"], np.ndarray)


def test_how_much_moves_stays_visible_where_the_samples_own_statistics_would_hide_it(processor):
    weak, strong = (noisy(paths(6.0, share=share), 1.0) for share in (0.05, 0.4))
    by_sample = MMWFMProcessor(csi_processor={**CSI_VIEW, "normalization": "sample"})
    default = [view(processor, csi) for csi in (weak, strong)]
    own = [view(by_sample, csi) for csi in (weak, strong)]
    assert default[1].mean() - default[0].mean() > 0.2
    assert abs(own[1].mean() - own[0].mean()) < 1e-3
    spreads = [np.std(image) for image in default]
    assert spreads[1] / spreads[0] > 1.1  # the larger dynamic range, too


def test_silence_and_a_channel_at_rest_are_finite_and_bounded(processor):
    for csi in (np.zeros((2, 56, 100)), np.ones((1, 30, 5)), 1e-20 * np.ones((1, 1, 1)), 1e6 * np.ones((2, 114, 64))):
        pixels = view(processor, csi)
        assert np.isfinite(pixels).all() and np.abs(pixels).max() < 5


def test_guards_that_do_not_move_with_the_gain_show_nothing_of_it(processor):
    csi = np.abs(paths(5.0))
    gains = 10 ** np.random.default_rng(3).uniform(-0.3, 0.3, (2, 1, 400))
    still, moved = csi.copy(), csi * gains
    for values in (still, moved):
        values[:, 20:30], values[:, 28] = 0.2, 0
    np.testing.assert_allclose(view(processor, moved), view(processor, still), atol=0.02)


def test_what_is_no_csi_is_refused(processor):
    image = np.ones((1, 8, 8), np.float32)
    for arguments, match in (
        ({"csi": paths(1.0), "images": image}, "expected `images` or `csi`, found both"),
        ({"csi": paths(1.0), "iq": image, "views": ("spectrogram",)}, "`csi` or the 'spectrogram' view of `iq`"),
        ({"csi": np.ones(5)}, r"`csi`: expected \(subcarriers, packets\)"),
        ({"csi": [np.ones((1, 2, 3, 4))]}, r"`csi`: expected \(subcarriers, packets\)"),
        ({"csi": []}, "`csi`: expected at least one value, found none"),
        ({"csi": np.ones((1, 0, 5))}, "`csi`: expected at least one value, found none"),
        ({"csi": np.full((1, 5, 5), np.nan)}, "NaN"),
        ({"csi": paths(1.0), "resample": True}, "`resample`: expected a fitted and a given packet rate"),
    ):
        with pytest.raises(ValueError, match=match):
            processor(**arguments)
    with pytest.raises(ValueError, match="`kind`: expected iq, images, csi or None, found 'wifi'"):
        MMWFMProcessor(kind="wifi")
    with pytest.raises(ValueError, match="`iq_views`: expected 'iq', 'spectrogram' or both"):
        MMWFMProcessor(iq_views=["waterfall"])


def test_another_packet_rate_is_taken_as_it_is_or_converted():
    fitted = MMWFMProcessor(csi_processor={**CSI_VIEW, "normalization": "none"})
    fitted.fit([{"csi": np.abs(paths(5.0)), "sampling_rate_hz": rate} for rate in (99.0, 101.0)])
    assert fitted.csi_processor.packet_rate_hz == 100.0
    csi = paths(25.0, 800, rate_hz=200.0)
    bins = [
        view(fitted, csi, packet_rate_hz=200.0, resample=resample).reshape(7, 16, 128).mean((0, 2)).argmax()
        for resample in (False, True)
    ]
    assert bins == [4, 8]
    # Beside IQ whose rate alone is given, CSI is not asked for one.
    fitted.feature_extractor.sampling_rate_hz = 1e6
    batch = fitted(iq=np.ones(64, np.complex64), sampling_rate_hz=2e6, csi=csi, resample=True)
    assert batch["iq_values"].shape[-1] == 32 and batch["pixel_values"].shape == (1, 1, 112, 128)


def test_fit_measures_statistics_that_are_missing_and_keeps_those_that_are_there():
    rows = [{"csi": np.abs(noisy(paths(f, seed=f))), "sampling_rate_hz": 0.0} for f in range(1, 9)]
    own = MMWFMProcessor(csi_processor={**SMALL_VIEW, "sample_share": 0.0, "image_mean": None, "image_std": None})
    own.fit(rows)
    pixels = own(csi=[row["csi"] for row in rows])["pixel_values"]
    assert abs(pixels.mean()) < 1e-3 and abs(pixels.std() - 1) < 1e-3
    kept = MMWFMProcessor().fit(rows)
    assert (kept.csi_processor.image_mean, kept.csi_processor.image_std) == (
        CSI_VIEW["image_mean"],
        CSI_VIEW["image_std"],
    )
    assert kept.csi_processor.packet_rate_hz is None


# Everything saved in argv[1], in a process that has never seen the package.
READER = """
import sys
sys.modules["modeling_mmwfm"] = None
import json
import numpy as np
from transformers import AutoProcessor, pipeline
folder, inputs, capture, result = sys.argv[1:]
csi = np.load(inputs)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
found = {"pixels": processor(csi=csi)["pixel_values"].tolist(), "kind": processor.kind, "views": processor.iq_views}
processor.save_pretrained(folder + "-again")
again = AutoProcessor.from_pretrained(folder + "-again", trust_remote_code=True)
found["again"] = again(csi=csi)["pixel_values"].tolist()
pipe = pipeline("signal-classification", model=folder, trust_remote_code=True, device="cpu")
found["array"], found["file"] = pipe(csi, top_k=None), pipe(capture, top_k=None)
json.dump(found, open(result, "w"))
"""


@pytest.fixture(scope="module")
def model():
    return make(MMWFMForSequenceClassification, id2label={0: "empty", 1: "walking", 2: "falling"})


@pytest.fixture(scope="module")
def csi_folder(model, tmp_path_factory):
    """A model that was adapted to CSI."""
    folder = tmp_path_factory.mktemp("csi") / "model"
    model.save_pretrained(folder)
    MMWFMProcessor(csi_processor=SMALL_VIEW, kind="csi").save_pretrained(folder)
    return folder


def by_label(entries):
    return {entry["label"]: entry["score"] for entry in entries}


def scores_of(model, processor, csi, **options):
    with torch.no_grad():
        logits = model(**processor(csi=csi, **options)).logits
    return dict(zip(model.config.id2label.values(), logits.softmax(-1)[0].tolist()))


ESP32 = random_csi(60, 64, 1, 1, 8)


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    path = tmp_path_factory.mktemp("capture") / "walk.csv"
    path.write_bytes(esp32_file(ESP32, times(60)))
    return path


def test_a_saved_processor_does_the_same_here_and_in_a_fresh_process(csi_folder, model, capture, tmp_path):
    csi = noisy(paths(7.0))
    np.save(tmp_path / "csi.npy", csi)
    names = [csi_folder, tmp_path / "csi.npy", capture, tmp_path / "result.json"]
    done = subprocess.run(
        [sys.executable, "-c", READER, *map(str, names)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found, processor = json.loads((tmp_path / "result.json").read_text()), MMWFMProcessor.from_pretrained(csi_folder)
    assert (processor.kind, processor.iq_views) == (found["kind"], found["views"]) == ("csi", ["iq"])
    assert processor.csi_processor.to_dict() == MMWFMImageProcessor.from_dict(SMALL_VIEW).to_dict()
    expected = MMWFMProcessor(csi_processor=SMALL_VIEW)(csi=csi)["pixel_values"].numpy()
    for pixels in (processor(csi=csi)["pixel_values"], found["pixels"], found["again"]):
        np.testing.assert_allclose(np.asarray(pixels), expected, atol=1e-4)
    assert by_label(found["array"]) == pytest.approx(scores_of(model, processor, csi), abs=1e-5)
    amplitude = read_capture(capture, "esp32").amplitude
    assert by_label(found["file"]) == pytest.approx(scores_of(model, processor, amplitude), abs=1e-5)


def test_a_processor_saved_before_there_was_csi_opens(tmp_path):
    MMWFMProcessor(csi_processor=SMALL_VIEW, kind="csi", iq_views=["spectrogram"]).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    assert settings["csi_processor"]["doppler"]["num_groups"] == 2
    for name in ("csi_processor", "iq_views", "kind"):
        del settings[name]
    for name in ("merge_antennas", "sample_share"):
        del settings["image_processor"][name]
    (tmp_path / "processor_config.json").write_text(json.dumps(settings))
    processor = MMWFMProcessor.from_pretrained(tmp_path)
    assert (processor.kind, processor.iq_views) == (None, ["iq"])
    assert processor.csi_processor.doppler == CSI_VIEW["doppler"]


def test_views_of_iq_are_saved_and_taken_without_being_named(model, tmp_path):
    extractor = MMWFMFeatureExtractor(normalization="none", n_fft=32, hop_length=32)
    image_processor = MMWFMImageProcessor(size={"height": 16, "width": 16})
    views = ["iq", "spectrogram"]
    MMWFMProcessor(extractor, image_processor, iq_views=views).save_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    processor = MMWFMProcessor.from_pretrained(tmp_path / "model")
    signal = np.random.default_rng(0).standard_normal((256, 2)).astype(np.float32)
    batch = processor(iq=signal)
    assert set(batch) == {"iq_values", "iq_attention_mask", "pixel_values"}
    assert set(processor(iq=signal, views=("iq",))) == {"iq_values", "iq_attention_mask"}
    with torch.no_grad():
        logits, features = model(**batch).logits, model.mmwfm(**batch).pooler_output[0].numpy()
        other = model(**processor(iq=signal, views=("iq",))).logits
    assert (logits - other).abs().max() > 1e-3
    pipe = pipeline("signal-classification", model=model, processor=processor, device="cpu")
    np.testing.assert_allclose([entry["score"] for entry in pipe(signal, top_k=None)],
                               sorted(logits.softmax(-1)[0].tolist(), reverse=True), atol=1e-5)  # fmt: skip
    (tmp_path / "in").mkdir()
    signal.tofile(tmp_path / "in" / "a.cf32")
    out = embed(tmp_path / "in", EmbeddingArguments(str(tmp_path / "model"), str(tmp_path / "out")))
    np.testing.assert_allclose(embeddings(out)[0], features, atol=1e-5)


def embeddings(folder):
    from datasets import load_dataset

    return np.array(load_dataset(str(folder))["train"]["embedding"][:])


WRITERS = {
    "esp32": (".csv", esp32_file, random_csi(60, 64, 1, 1, 8), {}),
    "atheros": (".dat", atheros_file, random_csi(60, 56, 2, 1, 10), {}),
    "intel": (".dat", intel_file, random_csi(60, 30, 3, 1, 8), {}),
    "nexmon": (".pcap", nexmon_file, random_csi(60, 64, 1, 1, 12), {"chip": "43455c0"}),
}


@pytest.mark.parametrize("tool", WRITERS)
def test_a_capture_opens_by_its_file_name_with_the_numbers_of_its_tool(csi_folder, model, tmp_path, tool):
    suffix, write, csi, options = WRITERS[tool]
    path = tmp_path / "in" / f"capture{suffix}"
    path.parent.mkdir()
    path.write_bytes(write(csi, times(60)))
    expected = read_capture(path, tool, **options)
    recording = open_recording(path, **options)
    assert (recording.kind, recording.shape) == ("csi", expected.amplitude.shape)
    assert recording.sampling_rate_hz == pytest.approx(RATE_HZ)
    np.testing.assert_array_equal(recording.window(3, 40), expected.amplitude[..., 3:43])

    processor = MMWFMProcessor.from_pretrained(csi_folder)
    pipe = pipeline("signal-classification", model=model, processor=processor, device="cpu", **options)
    whole, middle = pipe(str(path), top_k=None), pipe(str(path), top_k=None, window_length=40)
    assert by_label(whole) == pytest.approx(scores_of(model, processor, expected.amplitude), abs=1e-5)
    assert by_label(middle) == pytest.approx(scores_of(model, processor, expected.amplitude[..., 10:50]), abs=1e-5)

    if options:
        (path.parent / "metadata.csv").write_text(f"file_name,chip\n{path.name},{options['chip']}\n")
    out = embed(path.parent, EmbeddingArguments(str(csi_folder), str(tmp_path / "out")))
    with torch.no_grad():
        features = model.mmwfm(**processor(csi=expected.amplitude)).pooler_output.numpy()
    np.testing.assert_allclose(embeddings(out), features, atol=1e-5)

    arguments = AnalysisArguments(str(csi_folder), str(tmp_path / "analysis"), window_length=40, **options)
    files = analyze(path, arguments)
    rows = files["windows"].read_text().splitlines()
    assert len(rows) == 1 + 2 and rows[0].startswith("start,time_s,label,score,novelty,probability_empty")
    cells = rows[1].split(",")
    assert cells[4] == "" and float(rows[2].split(",")[1]) == pytest.approx(20 / RATE_HZ)
    first = scores_of(model, processor, expected.amplitude[..., :40])
    np.testing.assert_allclose([float(cell) for cell in cells[5:]], list(first.values()), atol=1e-5)
    meta = json.loads(files["annotations"].read_text())
    assert meta["global"]["core:num_channels"] == expected.amplitude.shape[0] * expected.amplitude.shape[1]
    spans = [(entry["core:sample_start"], entry["core:sample_count"]) for entry in meta["annotations"]]
    assert sum(count for _, count in spans) == 60 and not any(
        "mmwfm:novelty" in entry for entry in meta["annotations"]
    )
    assert not any("core:freq_lower_edge" in entry for entry in meta["annotations"])


def test_esp32_needs_no_other_package_and_the_others_name_theirs(tmp_path, monkeypatch):
    monkeypatch.setattr(csi_captures_mmwfm, "csiread", None)
    for tool, (suffix, write, csi, options) in WRITERS.items():
        path = tmp_path / f"{tool}{suffix}"
        path.write_bytes(write(csi, times(60)))
        if tool == "esp32":
            assert open_recording(path).shape == (1, 64, 60)
        else:
            with pytest.raises(
                ValueError, match="expected the package csiread, which decodes .*: `pip install csiread`"
            ):
                open_recording(path, **options)


def test_tables_and_other_files_are_not_taken_for_captures(tmp_path):
    (tmp_path / "a.csv").write_bytes(esp32_file(ESP32, times(60)))
    (tmp_path / "table.csv").write_text("file_name,label\nCSI_DATA_1.npy,walk\nmy CSI_DATA,run\n")
    (tmp_path / "notes.dat").write_text("notes of the day, nothing else\n" * 20)
    assert list_recordings(tmp_path) == [{"file_name": "a.csv"}]
    with pytest.raises(ValueError, match="a capture of nexmon, esp32, intel or atheros in .*table.csv"):
        open_recording(tmp_path / "table.csv")
    (tmp_path / "metadata.csv").write_text("file_name,label\na.csv,walk\n")
    assert list_recordings(tmp_path) == [{"file_name": "a.csv", "label": "walk"}]


def test_arrays_on_disk_are_what_the_model_was_adapted_to(csi_folder, model, tmp_path):
    csi = np.abs(noisy(paths(7.0, 60, 2, 3)))  # (3, 2, 60): by its shape alone an image
    processor = MMWFMProcessor.from_pretrained(csi_folder)
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", csi)
    np.save(tmp_path / "in" / "b.npy", paths(7.0, 20, 30)[0])  # complex (30, 20): by its shape alone IQ, transposed
    with torch.no_grad():
        expected = model.mmwfm(**processor(csi=csi)).pooler_output.numpy()
    out = embed(tmp_path / "in", EmbeddingArguments(str(csi_folder), str(tmp_path / "out")))
    np.testing.assert_allclose(embeddings(out)[:1], expected, atol=1e-5)
    pipe = pipeline(
        "feature-extraction",
        model=model,
        processor=processor,
        pipeline_class=MMWFMFeatureExtractionPipeline,
        device="cpu",
    )
    for item in (csi, str(tmp_path / "in" / "a.npy"), {"csi": csi}, csi.astype(np.complex64)):
        np.testing.assert_allclose([pipe(item)], expected, atol=1e-5)
    np.testing.assert_allclose(pipe(np.stack([csi, csi])), np.repeat(expected, 2, 0), atol=1e-5)
    with pytest.raises(ValueError, match="expected CSI in .*a.cf32, found iq"):
        csi.astype(np.float32).tofile(tmp_path / "a.cf32")
        analyze(tmp_path / "a.cf32", AnalysisArguments(str(csi_folder), str(tmp_path / "analysis")))


def test_a_row_of_a_table_says_what_the_clock_of_a_capture_says_wrongly(capture):
    assert open_row(capture.parent, {"file_name": capture.name})[1] == pytest.approx(RATE_HZ)
    assert open_row(capture.parent, {"file_name": capture.name, "sampling_rate_hz": "98.5"})[1] == 98.5
