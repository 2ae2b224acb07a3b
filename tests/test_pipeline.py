"""`transformers.pipeline` on arrays and files, with a folder, a model and an adapter."""

import copy
import json
import os
import pickle
import struct
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import pipeline

from modeling_mmwfm import (
    MMWFMConfig,
    MMWFMFeatureExtractor,
    MMWFMForPreTraining,
    MMWFMForSequenceClassification,
    MMWFMImageProcessor,
    MMWFMProcessor,
)
from modeling_mmwfm.finetuning_mmwfm import load_adapted
from modeling_mmwfm.pipeline_mmwfm import MMWFMFeatureExtractionPipeline
from modeling_mmwfm.recordings_mmwfm import open_recording
from tests.small_models import RELEASED, SMALL, make
from tests.test_adapters import write_adapter

RATE_HZ = 1e6
LABELS = ["noise", "lora", "wifi"]

# Everything from argv[1] on the inputs in argv[2], in a process that has never seen the package.
READER = """
import json, sys
sys.modules["modeling_mmwfm"] = None
import numpy as np
from transformers import pipeline
folder, inputs, adapter, files = sys.argv[1], np.load(sys.argv[2]), sys.argv[4], sys.argv[5:]
pipe = pipeline("signal-classification", model=folder, trust_remote_code=True, device="cpu")
features = pipeline("feature-extraction", model=folder, trust_remote_code=True, device="cpu")
assert "transformers_modules" in type(pipe).__module__ and "transformers_modules" in type(features).__module__
found = {"files": pipe(files, top_k=None), "array": pipe(inputs["iq"], top_k=None)}
found["features"] = [features(inputs["iq"]), *features(files)]
pipe.save_pretrained(folder + "-again")
again = pipeline("signal-classification", model=folder + "-again", trust_remote_code=True, device="cpu")
found["again"] = again(inputs["iq"], top_k=None)
adapted = pipeline("signal-classification", model=adapter, trust_remote_code=True, device="cpu")
found["adapter"] = adapted(inputs["iq"], top_k=None)
json.dump(found, open(sys.argv[3], "w"))
"""


@pytest.fixture(scope="module")
def processor():
    return MMWFMProcessor(
        MMWFMFeatureExtractor(sampling_rate_hz=RATE_HZ, normalization="none", n_fft=32, hop_length=32),
        MMWFMImageProcessor(size={"height": 16, "width": 16}),
    )


@pytest.fixture(scope="module")
def model():
    return make(MMWFMForSequenceClassification, id2label=dict(enumerate(LABELS)))


@pytest.fixture(scope="module")
def pipe(model, processor):
    return pipeline("signal-classification", model=model, processor=processor, device="cpu")


@pytest.fixture(scope="module")
def folder(model, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def signal(samples=200, antennas=1, seed=0):
    """(A, T) complex64 of multiples of 1/128, which every integer format holds exactly."""
    parts = np.random.default_rng(seed).integers(-100, 100, (antennas, samples, 2)) / 128
    return parts.astype(np.float32).view(np.complex64)[..., 0]


def pairs(values):
    """(A, T) complex -> (T, A * 2) as interleaved on disk."""
    return values.T.copy().view(np.float32)


def write_wav(path, values, bits):
    whole = (pairs(values) * 2 ** (bits - 1)).astype(np.int64)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(whole.shape[1])
        file.setsampwidth(bits // 8)
        file.setframerate(int(RATE_HZ))
        file.writeframes(whole.astype("<i8").reshape(-1, 1).view(np.uint8)[:, : bits // 8].tobytes())


def write_sigmf(path, values, data=None, **fields):
    path.with_suffix(".sigmf-data").write_bytes((pairs(values) * 128).astype("i1").tobytes() if data is None else data)
    fields = {"core:datatype": "ci8", "core:num_channels": len(values), "core:sample_rate": RATE_HZ} | fields
    path.write_text(json.dumps({"global": fields, "captures": [{"core:sample_start": 0}], "annotations": []}))
    return path


def write_all(folder, values):
    """The same samples in every format."""
    np.save(folder / "complex.npy", values)
    np.save(folder / "fortran.npy", np.asfortranarray(values))
    np.save(folder / "pairs.npy", (values.view(np.float32).reshape(*values.shape, 2) * 128).astype(np.int8))
    (folder / "raw.cf32").write_bytes(pairs(values).tobytes())
    (folder / "raw.cs16").write_bytes((pairs(values) * 2**15).astype("<i2").tobytes())
    write_wav(folder / "a.wav", values, 16)
    write_wav(folder / "b.wav", values, 24)
    write_sigmf(folder / "c.sigmf-meta", values)
    return sorted(path for path in folder.iterdir() if path.suffix != ".sigmf-data")


def expected_scores(model, processor, values):
    with torch.no_grad():
        logits = model(**processor(iq=values, sampling_rate_hz=RATE_HZ)).logits
    return dict(zip(LABELS, logits.softmax(-1)[0].tolist()))


def scores(result):
    assert [entry["score"] for entry in result] == sorted((entry["score"] for entry in result), reverse=True)
    return {entry["label"]: entry["score"] for entry in result}


def test_a_fresh_process_opens_the_folder_by_remote_code(folder, model, processor, tmp_path):
    if "custom_pipelines" not in json.loads((folder / "config.json").read_text()):
        pytest.fail("expected `custom_pipelines` in the saved config.json, found none")
    values = signal()
    (tmp_path / "files").mkdir()
    files = [path for path in write_all(tmp_path / "files", values) if path.suffix != ".npy"]
    np.savez(tmp_path / "inputs.npz", iq=values)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    (tmp_path / "elsewhere").mkdir()
    adapter = write_adapter(folder, tmp_path / "adapter", ["iq"], {"id2label": dict(enumerate("abc"))})
    processor.save_pretrained(adapter)
    done = subprocess.run(
        [sys.executable, "-c", READER, folder, tmp_path / "inputs.npz", tmp_path / "found.json", adapter, *files],
        cwd=tmp_path / "elsewhere",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((tmp_path / "found.json").read_text())
    expected = expected_scores(model, processor, values)
    assert max(expected.values()) - min(expected.values()) > 0.01
    for result in [*found["files"], found["array"], found["again"]]:
        assert scores(result) == pytest.approx(expected, abs=1e-5)
    with torch.no_grad():
        features = model.mmwfm(**processor(iq=values, sampling_rate_hz=RATE_HZ)).pooler_output[0]
        logits = load_adapted(adapter)(**processor(iq=values)).logits[0]
    assert scores(found["adapter"]) == pytest.approx(dict(zip("abc", logits.softmax(-1).tolist())), abs=1e-5)
    assert len(found["features"]) == 1 + len(files)
    for row in found["features"]:
        assert row == pytest.approx(features.tolist(), abs=1e-5)


@pytest.mark.parametrize("antennas", [1, 3])
def test_every_format_gives_the_scores_of_the_array(antennas, pipe, model, processor, tmp_path):
    values = signal(antennas=antennas)
    expected = expected_scores(model, processor, values)
    for path in write_all(tmp_path, values):
        rate_hz = None if path.suffix in (".wav", ".sigmf-meta") else RATE_HZ
        count = antennas if path.suffix in (".wav", ".cf32", ".cs16") else 1
        found = pipe(str(path), num_antennas=count, sampling_rate_hz=rate_hz)
        assert scores(found) == pytest.approx(expected, abs=1e-5), path.name


def test_lists_of_unequal_inputs_are_padded_and_each_gets_its_own_answer(pipe, model, processor):
    inputs = [signal(200), signal(77, 2, seed=1), signal(130, 5, seed=2), signal(200, seed=3)]
    for batch_size in (1, 3):
        found = pipe(inputs, sampling_rate_hz=RATE_HZ, batch_size=batch_size)
        for values, result in zip(inputs, found, strict=True):
            assert scores(result) == pytest.approx(expected_scores(model, processor, values), abs=1e-5)
    batch = np.stack([signal(90, 2, seed=4), signal(90, 2, seed=5)])
    for result, values in zip(pipe(torch.from_numpy(batch), sampling_rate_hz=RATE_HZ), batch, strict=True):
        assert scores(result) == pytest.approx(expected_scores(model, processor, values), abs=1e-5)


def test_images_joint_input_and_the_spectrogram_view(pipe, model, processor):
    picture, values = np.random.default_rng(0).normal(size=(1, 20, 24)), signal(640)
    views = {"iq": values, "sampling_rate_hz": RATE_HZ, "views": ("spectrogram",)}
    for found, inputs in [
        (pipe(picture), {"images": picture}),
        (pipe({"iq": values, "images": picture}, sampling_rate_hz=RATE_HZ), {"iq": values, "images": picture}),
        (pipe(values, sampling_rate_hz=RATE_HZ, views=("spectrogram",)), views),
    ]:
        with torch.no_grad():
            logits = model(**processor(**inputs)).logits[0]
        expected = dict(zip(LABELS, logits.softmax(-1).tolist()))
        assert scores(found) == pytest.approx(expected, abs=1e-5)


def test_options(pipe, model, processor):
    values = signal(200)
    assert len(pipe(values, top_k=2)) == 2
    middle = pipe(values, window_length=64)
    assert scores(middle) == pytest.approx(expected_scores(model, processor, values[:, 68:132]), abs=1e-5)
    assert scores(pipe(values)) != pytest.approx(scores(middle), abs=1e-3)
    with pytest.raises(ValueError, match="expected 1e\\+06"):
        pipe(values, sampling_rate_hz=2e6)
    assert len(pipe(values, sampling_rate_hz=2e6, resample=True)) == 3
    with pytest.raises(ValueError, match="expected datatype, .*found \\['windowlength'\\]"):
        pipe(values, windowlength=3)
    with pytest.raises(ValueError, match="at most 1048576 samples at once, found 1048577 in the input"):
        pipe(np.ones(2**20 + 1, np.complex64))


def test_positioning_gives_metres(processor):
    box = {"label_min": [0.0, -5.0], "label_max": [80.0, 5.0]}
    regression = make(MMWFMForSequenceClassification, problem_type="regression", num_labels=2, **box)
    found = pipeline("signal-classification", model=regression, processor=processor, device="cpu")(signal())
    with torch.no_grad():
        metres = regression(**processor(iq=signal())).logits[0].tolist()
    assert [entry["label"] for entry in found] == ["x", "y"]
    assert [entry["metres"] for entry in found] == pytest.approx(metres, abs=1e-4)


def test_a_model_with_an_adapter(folder, model, processor, tmp_path):
    base = MMWFMForSequenceClassification.from_pretrained(folder)
    settings = {"r": 2, "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["classifier"]}
    adapted = get_peft_model(base, LoraConfig(**settings, init_lora_weights=False)).eval()
    torch.nn.init.normal_(adapted.base_model.model.classifier.modules_to_save["default"].weight)
    adapted.save_pretrained(tmp_path)
    values = signal()
    expected = expected_scores(adapted, processor, values)
    assert expected != pytest.approx(expected_scores(model, processor, values), abs=1e-2)
    loaded = PeftModel.from_pretrained(MMWFMForSequenceClassification.from_pretrained(folder), tmp_path)
    parts = {"model": loaded, "processor": processor, "device": "cpu"}
    found = pipeline("signal-classification", **parts)(values, sampling_rate_hz=RATE_HZ)
    assert scores(found) == pytest.approx(expected, abs=1e-5)
    features = pipeline("feature-extraction", **parts, pipeline_class=MMWFMFeatureExtractionPipeline)
    with torch.no_grad():
        expected = adapted.base_model.model.mmwfm(**processor(iq=values)).pooler_output[0]
        without = model.mmwfm(**processor(iq=values)).pooler_output[0]
    assert not torch.allclose(expected, without, atol=1e-3)
    torch.testing.assert_close(features(values, return_tensors=True), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", [{}, RELEASED], ids=["paper", "released"])
def test_an_adapter_by_its_folder(processor, tmp_path, settings):
    """With its own head, labels and processor, though transformers looks for them at the base."""
    processor = copy.deepcopy(processor)
    processor.feature_extractor.center_carrier = bool(settings)
    make(MMWFMForPreTraining, **settings).save_pretrained(tmp_path / "base")
    MMWFMProcessor(MMWFMFeatureExtractor(normalization="sample")).save_pretrained(tmp_path / "base")
    head = {"id2label": dict(enumerate(LABELS)), "problem_type": "single_label_classification"}
    folder = write_adapter(tmp_path / "base", tmp_path / "adapter", ["iq"], head)
    processor.save_pretrained(folder)
    adapted, values = load_adapted(folder), signal()
    expected = expected_scores(adapted, processor, values)
    assert max(expected.values()) - min(expected.values()) > 0.01
    pipe = pipeline("signal-classification", model=str(folder), trust_remote_code=True, device="cpu")
    assert scores(pipe(values)) == pytest.approx(expected, abs=1e-5)
    features = pipeline("feature-extraction", model=str(folder), trust_remote_code=True, device="cpu")
    with torch.no_grad():
        encoded = adapted.base_model.model.mmwfm(**processor(iq=values)).pooler_output[0]
    torch.testing.assert_close(features(values, return_tensors=True), encoded, atol=1e-5, rtol=1e-5)
    pipe.save_pretrained(tmp_path / "again")
    again = pipeline("signal-classification", model=str(tmp_path / "again"), trust_remote_code=True, device="cpu")
    assert scores(again(values)) == pytest.approx(expected, abs=1e-5)
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="adapter: expected the base of the adapter at .*/base, found none"):
        pipeline("signal-classification", model=str(folder), trust_remote_code=True, device="cpu")


def test_a_head_that_was_never_trained_is_refused(processor):
    untrained = MMWFMForSequenceClassification(MMWFMConfig(**SMALL, num_labels=3))
    with pytest.raises(ValueError, match="expected a fine-tuned model, found one whose head was never trained"):
        pipeline("signal-classification", model=untrained, processor=processor, device="cpu")


class Payload:
    """A pickle of it makes a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def refusals(folder):
    """(file, arguments, message)"""
    values = signal()
    np.save(folder / "good.npy", values)
    (folder / "wav.npy").write_bytes(b"RIFF" + bytes(40))
    yield "wav.npy", {}, "expected an .npy array in .*wav.npy, found a .wav file"
    (folder / "pickle.npy").write_bytes(pickle.dumps(Payload(folder / "executed")))
    yield "pickle.npy", {}, "found a Python pickle"
    np.save(folder / "objects.npy", np.array([Payload(folder / "executed")], dtype=object), allow_pickle=True)
    yield "objects.npy", {}, "expected a complete .npy file of numbers in .*objects.npy"
    (folder / "cut.npy").write_bytes((folder / "good.npy").read_bytes()[:-8])
    yield "cut.npy", {}, "expected a complete .npy file"
    np.savez(folder / "zip", iq=values)
    (folder / "zip.npz").rename(folder / "zip.cf32")
    yield "zip.cf32", {}, "expected raw cf32_le samples in .*zip.cf32, found a ZIP archive"
    (folder / "cut.cf32").write_bytes(bytes(15))
    yield "cut.cf32", {}, "expected whole samples of 8 bytes .*found 15 bytes: truncated"
    (folder / "empty.cs16").write_bytes(b"")
    yield "empty.cs16", {}, "found an empty file"
    (folder / "nan.cf32").write_bytes(np.array([0, np.nan] * 20, "<f4").tobytes())
    yield "nan.cf32", {}, "expected finite values in .*nan.cf32"
    (folder / "what.bin").write_bytes(bytes(64))
    yield "what.bin", {}, "expected a datatype for .*what.bin"
    (folder / "good.cs16").write_bytes(bytes(64))
    yield "good.cs16", {"datatype": "cf32_le"}, "expected datatype ci16_le"
    write_wav(folder / "good.wav", values, 16)
    yield "good.wav", {"num_antennas": 2}, "expected 4 channels .* found 2"
    yield "good.wav", {"sampling_rate_hz": 2e6}, "expected 1e\\+06 for .*good.wav, which says so itself, found 2e\\+06"
    (folder / "cut.wav").write_bytes((folder / "good.wav").read_bytes()[:-8])
    yield "cut.wav", {}, "found 792: truncated"
    (folder / "npy.wav").write_bytes((folder / "good.npy").read_bytes())
    yield "npy.wav", {}, "expected a .wav file in .*, found an .npy array"
    write_sigmf(folder / "hash.sigmf-meta", values, **{"core:sha512": "0" * 128})
    yield "hash.sigmf-meta", {}, "expected the core:sha512"
    write_sigmf(folder / "outside.sigmf-meta", values, **{"core:dataset": "../good.npy"})
    yield "outside.sigmf-meta", {}, "expected core:dataset of .* to be a file beside it"
    write_sigmf(folder / "hdf5.sigmf-meta", values, data=b"\x89HDF\r\n\x1a\n" + bytes(40))
    yield "hdf5.sigmf-meta", {}, "expected raw ci8 samples in .*, found an HDF5 file"
    (folder / "list.sigmf-meta").write_text("[1]")
    yield "list.sigmf-meta", {}, "expected SigMF metadata in .*list.sigmf-meta"
    (folder / "x.mat").write_bytes(bytes(9))
    yield "x.mat", {}, "expected one of .sigmf-meta.*extra 'train'"
    yield "absent.npy", {}, "found no file"


def test_wrong_files_are_named_with_what_they_hold(pipe, tmp_path):
    for name, arguments, message in refusals(tmp_path):
        with pytest.raises(ValueError, match=message):
            pipe(tmp_path / name, **arguments)
    assert not (tmp_path / "executed").exists()
    with pytest.raises(ValueError, match="empty list"):
        pipe([])
    with pytest.raises(ValueError, match="expected image-like real .* in the input, found complex64"):
        pipe({"images": signal()})
    with pytest.raises(ValueError, match="the same kind of input"):
        pipe([signal(), np.ones((1, 8, 8))], batch_size=2)


def test_a_wav_above_four_gigabytes_keeps_its_size_in_ds64(tmp_path):
    values = signal(50)
    write_wav(tmp_path / "a.wav", values, 16)
    content = (tmp_path / "a.wav").read_bytes()
    ds64 = b"ds64" + struct.pack("<IQQQI", 28, 0, 200, 50, 0)
    body = content[12:36] + b"data" + b"\xff" * 4 + content[44:]
    (tmp_path / "b.wav").write_bytes(b"RF64" + b"\xff" * 4 + b"WAVE" + ds64 + body)
    recording = open_recording(tmp_path / "b.wav")
    assert recording.shape == (1, 50) and recording.sampling_rate_hz == RATE_HZ
    np.testing.assert_array_equal(recording.window(0, 50), values)
