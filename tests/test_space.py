"""The Space in headless Chromium: upload, slider, prediction, examples, and what it says of files that are none."""

import csv
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import time
import tracemalloc
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from modeling_mmwfm import (
    MMWFMFeatureExtractor,
    MMWFMForPreTraining,
    MMWFMForSequenceClassification,
    MMWFMImageProcessor,
    MMWFMProcessor,
)
from modeling_mmwfm.finetuning_mmwfm import load_adapted
from tests.processing.test_wifi_csi import esp32_file, expected_amplitude, nexmon_file, random_csi, times
from tests.recording_files import write_sigmf
from tests.small_models import RELEASED, make
from tests.test_adapters import write_adapter

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

ROOT = Path(__file__).parents[1]
SPACE = ROOT / "training_scripts" / "space"
RATE_HZ = 1e6
LABELS = ["noise", "tone", "chirp"]
MOTIONS = ["still", "walking"]
EXAMPLES = json.loads((SPACE / "examples" / "examples.json").read_text())
# Every address that the server wants to reach beside this machine is refused and written down.
BLOCK_NETWORK = """
import os, socket
def refuse(connect):
    def checked(self, address, *rest):
        if self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "localhost", "::1", "0.0.0.0"):
            return connect(self, address, *rest)
        with open(os.environ["ASKED_FOR"], "a") as file:
            file.write(f"{address}\\n")
        raise OSError("no network in this test")
    return checked
socket.socket.connect, socket.socket.connect_ex = refuse(socket.socket.connect), refuse(socket.socket.connect_ex)
resolve = socket.getaddrinfo
def getaddrinfo(host, *rest, **named):
    if host not in (None, "", "127.0.0.1", "localhost", "::1", "0.0.0.0"):
        with open(os.environ["ASKED_FOR"], "a") as file:
            file.write(f"{host}\\n")
        raise socket.gaierror("no network in this test")
    return resolve(host, *rest, **named)
socket.getaddrinfo = getaddrinfo
"""


def signal(samples=2048, seed=0):
    """A chirp in noise, (T,) complex64."""
    rng, time_ = np.random.default_rng(seed), np.arange(samples)
    noise = rng.standard_normal((samples, 2)).view(np.complex128)[:, 0]
    return (np.exp(2j * np.pi * (0.05 + 0.05 * time_ / samples) * time_) + 0.1 * noise).astype(np.complex64)


def tell_novelty(folder, factor: float):
    """Let an adapter of `novelty_rank` tell a novelty that grows with `factor`."""
    state = load_file(folder / "adapter_model.safetensors")
    for name, value in (("centers", 0.0), ("scale", factor), ("basis", 0.0)):
        state[f"base_model.model.classifier.{name}"].fill_(value)
    save_file(state, folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Base and three adapters with random weights: classes of IQ, metres of images, classes of CSI with novelty."""
    folder = tmp_path_factory.mktemp("space")
    processor = MMWFMProcessor(
        MMWFMFeatureExtractor(normalization="sample", n_fft=64, hop_length=32),
        MMWFMImageProcessor(size={"height": 32, "width": 32}),
    )
    make(MMWFMForPreTraining).save_pretrained(folder / "base")
    box = {"label_min": [0.0, -5.0], "label_max": [40.0, 5.0]}
    for name, families, settings in (
        ("signals-lora", ["iq"], {"id2label": dict(enumerate(LABELS)), "problem_type": "single_label_classification"}),
        ("place-lora", ["image"], {"num_labels": 2, "problem_type": "regression", **box}),
    ):
        write_adapter(folder / "base", folder / "adapters" / name, families, settings)
        processor.save_pretrained(folder / "adapters" / name)
    processor.save_pretrained(folder / "base")
    head = {"id2label": dict(enumerate(MOTIONS)), "problem_type": "single_label_classification", "novelty_rank": 2}
    write_adapter(folder / "base", folder / "adapters" / "motion-lora", ["image"], head)
    tell_novelty(folder / "adapters" / "motion-lora", 100.0)
    processor.kind = "csi"
    processor.save_pretrained(folder / "adapters" / "motion-lora")
    return folder


@pytest.fixture(scope="module")
def server(models):
    """(address, file that lists what the server wanted from the network)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (models / "block").mkdir()
    (models / "block" / "sitecustomize.py").write_text(BLOCK_NETWORK)
    asked_for = models / "asked_for"
    environment = {**os.environ, "ASKED_FOR": str(asked_for), "GRADIO_TEMP_DIR": str(models / "gradio")}
    environment |= {
        "PYTHONPATH": str(models / "block"),
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(models / "huggingface"),
    }
    environment.pop("HF_HUB_OFFLINE", None)  # nothing is to be wanted, not only to be refused
    environment |= {"MMWFM_MODEL": str(models / "base"), "MMWFM_ADAPTERS": str(models / "adapters")}
    command = [sys.executable, str(SPACE / "app.py"), "--port", str(port)]
    with (models / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=models, stdout=log, stderr=subprocess.STDOUT)
        try:
            for _ in range(450):
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None, (models / "log").read_text()
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}", asked_for
        finally:
            process.terminate()
            process.wait()
    assert not asked_for.exists(), asked_for.read_text()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    """The page as it opens; nothing may come from elsewhere, no script may fail."""
    context, elsewhere, errors = browser.new_context(viewport={"width": 1440, "height": 1000}), [], []

    def local(route):
        if route.request.url.startswith((server[0], "data:", "blob:")):
            return route.continue_()
        elsewhere.append(route.request.url)
        route.abort()

    context.route("**/*", local)
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(60000)
    page.goto(server[0], wait_until="domcontentloaded")
    page.wait_for_selector("#reconstruction svg")
    yield page
    context.close()
    assert elsewhere == [] and errors == []


def upload(page, *paths):
    page.set_input_files("#upload input[type=file]", [str(path) for path in paths])


def see(page, where, text):
    playwright.expect(page.locator(where)).to_contain_text(text, timeout=60000)


def expected_scores(models, samples):
    """Label -> percent, by peft alone."""
    folder = models / "adapters" / "signals-lora"
    processor = MMWFMProcessor.from_pretrained(folder)
    with torch.no_grad():
        logits = load_adapted(folder)(**processor(iq=samples[None])).logits[0]
    return {label: f"{100 * score:.1f} %" for label, score in zip(LABELS, logits.softmax(-1).tolist())}


def test_it_opens_with_an_example_and_without_the_network(page, server):
    see(page, "#summary", "modulation: bpsk")
    for part in ("#waterfall", "#beside", "#reconstruction"):
        assert page.locator(f"{part} svg").count() >= 1
    assert page.locator("#neighbours figure").count() == 5
    assert page.locator("#predictions article").count() == 3
    see(page, "#predictions", "takes images; this recording is IQ")
    see(page, "#predictions", "takes CSI; this recording is IQ")
    assert page.locator("#predictions .mark").count() == 0
    assert not server[1].exists(), server[1].read_text()


def test_upload_gives_the_scores_of_the_adapter(page, models, tmp_path):
    np.save(tmp_path / "my capture.npy", signal())
    upload(page, tmp_path / "my capture.npy")
    see(page, "#summary", "capture.npy")
    see(page, "#summary", "2,048")
    rows = page.locator("#predictions .score").all_inner_texts()
    found = dict(re.split(r"\s*\n\s*", row.strip())[:2] for row in rows)
    assert found == expected_scores(models, signal())


def test_the_slider_hides_more_or_less(page):
    see(page, "#reconstruction", "180 of 256 segments hidden (70 %)")
    before = page.locator("#reconstruction").inner_html()
    number = page.locator("#ratio input[type=number]")
    number.fill("0.25")
    number.press("Tab")
    see(page, "#reconstruction", "64 of 256 segments hidden (25 %)")
    see(page, "#reconstruction", "16 of 64 patches hidden (25 %)")
    assert page.locator("#reconstruction").inner_html() != before


def test_examples_are_picked(page):
    pictures = page.locator("#examples .thumbnail-item")
    shown = [entry for entry in EXAMPLES if entry["shown"]]
    assert pictures.count() == len(shown)
    number = [entry["label"] for entry in shown].index("lora")
    pictures.nth(number).click()
    see(page, "#summary", "modulation: lora")
    # an image: metres instead of classes, no constellation
    number = [entry["file"] for entry in shown].index("rfs-bluetooth-0.npy")
    pictures.nth(number).click()
    see(page, "#summary", "rfs: bluetooth")
    playwright.expect(page.locator("#predictions .metres")).to_have_count(2)
    playwright.expect(page.locator("#beside")).to_be_hidden()
    see(page, "#predictions", "takes IQ; this recording is an image")
    for text in page.locator("#predictions .metres").all_inner_texts():
        assert re.fullmatch(r"[xy]\s+-?\d+\.\d\d m", text.strip())
    # four channels: the base model sees their mean
    pictures.nth([entry["task"] for entry in shown].index("pos-outdoor")).click()
    see(page, "#reconstruction", "The mean of 4 channels")
    see(page, "#reconstruction", "patches hidden (70 %)")


def test_csi_is_drawn_compared_and_told_from_what_was_trained_on(page):
    shown = [entry for entry in EXAMPLES if entry["shown"]]
    page.locator("#examples .thumbnail-item").nth([entry["task"] for entry in shown].index("csi")).click()
    see(page, "#summary", "csi: walking-rx")
    see(page, "#summary", "100 / s")
    see(page, "#summary", "Measured by Matey-Sanz et al., Apache-2.0")
    for part in ("#waterfall", "#beside"):
        see(page, part, "time (s)")
    playwright.expect(page.locator("#neighbours figure span", has_text="csi")).to_have_count(5)
    see(page, "#reconstruction", "CSI as the model sees it")
    see(page, "#predictions", "takes IQ; this recording is CSI")
    see(page, "#predictions", "takes images; this recording is CSI")
    see(page, "#predictions article.unlike", "unlike its training data (novelty ")
    bar = page.locator("#predictions article.unlike .score").first
    assert float(bar.evaluate("element => getComputedStyle(element).opacity")) < 1


def test_a_capture_of_nexmon_is_read_once_its_chip_is_named(page, tmp_path):
    (tmp_path / "a.pcap").write_bytes(nexmon_file(random_csi(40, 64, 2, 1, 12), times(40)))
    upload(page, tmp_path / "a.pcap")
    playwright.expect(page.get_by_test_id("toast-body")).to_contain_text("expected chip 4339, 43455c0")
    page.get_by_text("What a file does not say").click()
    page.locator("#chip input").click()
    page.get_by_role("option", name="43455c0").click()
    page.get_by_role("button", name="Read again").click()
    see(page, "#summary", "a.pcap")
    see(page, "#summary", "100 / s")
    see(page, "#predictions", "walking")


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def malformed(folder):
    """Files that are not what they say -> what the message must hold."""
    np.save(folder / "cut.npy", signal())
    whole = (folder / "cut.npy").read_bytes()
    (folder / "cut.npy").write_bytes(whole[:-100])
    (folder / "pickle.bin").write_bytes(pickle.dumps(Payload(folder / "executed"), protocol=4))
    np.save(folder / "objects.npy", np.array([Payload(folder / "executed")], dtype=object), allow_pickle=True)
    np.savez(folder / "arrays.npz", a=signal())
    (folder / "zip.cf32").write_bytes((folder / "arrays.npz").read_bytes())
    np.save(folder / "nan.npy", np.full(512, np.nan, np.complex64))
    (folder / "<b>x.wav").write_bytes(whole)
    (folder / "table.csv").write_text("name,value\na,1\n")
    (folder / "cut.pcap").write_bytes(nexmon_file(random_csi(4, 64, 1, 1, 12), times(4))[:-10])
    (folder / "pickle.dat").write_bytes(pickle.dumps(Payload(folder / "executed"), protocol=4))
    return {
        "table.csv": ["expected a capture of nexmon, esp32, intel or atheros in table.csv"],
        "cut.pcap": ["expected chip 4339"],
        "pickle.dat": ["expected a capture of nexmon, esp32, intel or atheros in pickle.dat"],
        "cut.npy": ["expected a complete .npy file", "cut.npy"],
        "pickle.bin": ["expected a datatype for pickle.bin"],
        "objects.npy": ["expected a complete .npy file", "objects"],
        "arrays.npz": ["expected a recording", "arrays.npz"],
        "zip.cf32": ["expected raw cf32_le samples in zip.cf32", "found a ZIP archive"],
        "nan.npy": ["expected finite values", "found NaN"],
        "<b>x.wav": ["expected a .wav file", "found an .npy array"],
    }


@pytest.mark.parametrize("name", ["cut.npy", "pickle.bin", "<b>x.wav"])
def test_malformed_files_get_a_readable_message(page, tmp_path, name):
    parts = malformed(tmp_path)[name]
    upload(page, tmp_path / name)
    toast = page.get_by_test_id("toast-body")
    for part in parts:
        playwright.expect(toast).to_contain_text(part)
    assert "/tmp" not in toast.inner_text() and str(tmp_path) not in toast.inner_text()
    assert not (tmp_path / "executed").exists()
    see(page, "#summary", "modulation: bpsk")  # what was there stays


def test_sigmf_needs_both_files_and_raw_files_their_datatype(page, tmp_path):
    pairs = np.stack([signal().real, signal().imag], -1)[:, None]
    meta = write_sigmf(tmp_path, pairs, "cf32_le", **{"core:sample_rate": RATE_HZ})
    upload(page, meta)
    playwright.expect(page.get_by_test_id("toast-body")).to_contain_text("dropped together, found a.b.sigmf-meta")
    page.get_by_test_id("toast-close").click()
    page.locator("#upload button[aria-label='Clear']").click()
    upload(page, meta, meta.with_suffix(".sigmf-data"))
    see(page, "#summary", "1 MS/s")
    see(page, "#summary", "915 MHz")


@pytest.fixture
def modules(monkeypatch):
    """The Space's own modules, as it imports them."""
    names = ("inputs", "serving", "plots", "page", "app")
    monkeypatch.syspath_prepend(str(SPACE))
    import app
    import inputs
    import plots
    import serving

    yield {"app": app, "inputs": inputs, "plots": plots, "serving": serving}
    for name in names:
        sys.modules.pop(name, None)


def test_every_malformed_file_is_refused_by_name(modules, tmp_path):
    for name, parts in malformed(tmp_path).items():
        with pytest.raises(ValueError) as error:
            modules["inputs"].read_upload([str(tmp_path / name)], None, 1, 0)
        assert all(part in str(error.value) for part in parts) and str(tmp_path) not in str(error.value)
    assert not (tmp_path / "executed").exists()
    with pytest.raises(ValueError, match="expected one recording"):
        modules["inputs"].read_upload([str(tmp_path / "nan.npy"), str(tmp_path / "cut.npy")], None, 1, 0)
    with pytest.raises(ValueError, match="expected whole nexmon records in cut.pcap, found"):
        modules["inputs"].read_upload([str(tmp_path / "cut.pcap")], None, 1, 0, None, "4339")


def test_captures_of_csi_are_read_with_their_rate(modules, tmp_path):
    for name, write, antennas, chip in (("a.csv", esp32_file, 1, None), ("a.pcap", nexmon_file, 2, "4339")):
        csi = random_csi(40, 64, antennas, 1, 8)
        (tmp_path / name).write_bytes(write(csi, times(40)))
        found = modules["inputs"].read_upload([str(tmp_path / name)], None, 1, 7.0, None, chip)
        assert (found.kind, found.length, found.sampling_rate_hz) == ("csi", 40, 100)
        np.testing.assert_allclose(found.values, expected_amplitude(csi), rtol=1e-6)


def test_arrays_are_csi_where_it_is_said(modules, tmp_path):
    read = modules["inputs"].read_upload
    amplitude = np.random.default_rng(0).integers(1, 255, (56, 300)).astype(np.uint8)
    np.save(tmp_path / "a.npy", amplitude)
    assert read([str(tmp_path / "a.npy")], None, 1, 0).kind == "image"
    found = read([str(tmp_path / "a.npy")], None, 1, 100, "csi")
    assert (found.kind, found.values.shape, found.sampling_rate_hz) == ("csi", (1, 56, 300), 100)
    np.save(tmp_path / "db.npy", 20 * np.log10(amplitude / np.float32(255)))
    linear = read([str(tmp_path / "db.npy")], None, 1, 0, "csi").values
    np.testing.assert_allclose(linear, amplitude[None] / 255, rtol=1e-5)
    np.save(tmp_path / "complex.npy", np.full((2, 8, 40), 3 + 4j, np.complex64))
    found = read([str(tmp_path / "complex.npy")], None, 1, 0)
    assert found.kind == "csi" and np.abs(found.values).max() == 5
    with pytest.raises(ValueError, match="expected IQ as complex .* in complex.npy"):
        read([str(tmp_path / "complex.npy")], None, 1, 0, "iq")


def test_csi_that_is_too_large_is_refused(modules, tmp_path):
    read = modules["inputs"].read_upload
    with (tmp_path / "long.csv").open("wb") as file:
        file.write(esp32_file(random_csi(4, 64, 1, 1, 8), times(4)))
        file.truncate(2**25 + 1)
    with pytest.raises(
        ValueError, match="expected a capture of at most 33,554,432 bytes, found 33,554,433 in long.csv"
    ):
        read([str(tmp_path / "long.csv")], None, 1, 0)
    np.save(tmp_path / "turned.npy", np.ones((5000, 20), np.float32))
    with pytest.raises(ValueError, match="expected at most 4096 subcarriers in turned.npy, found 5000"):
        read([str(tmp_path / "turned.npy")], None, 1, 0, "csi")
    np.save(tmp_path / "loud.npy", np.full((1, 4, 20), 3e38 + 3e38j, np.complex64))
    with pytest.raises(ValueError, match="expected CSI of finite amplitude in loud.npy"):
        read([str(tmp_path / "loud.npy")], None, 1, 0)
    np.save(tmp_path / "long.npy", np.ones((2, 64, 4000), np.float16))
    found = read([str(tmp_path / "long.npy")], None, 1, 0, "csi")
    assert found.values.shape == (2, 64, 2048) and found.length == 4000


def test_of_a_long_recording_the_beginning_is_read(modules, tmp_path):
    with (tmp_path / "long.cs8").open("wb") as file:
        file.write(bytes([64, 0, 0, 64]))
        file.truncate(2**33)  # 4 G samples, sparse
    tracemalloc.start()
    found = modules["inputs"].read_upload([str(tmp_path / "long.cs8")], None, 2, 5e6)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2**27
    assert found.values.shape == (2, 2**17) and found.length == 2**31 and found.sampling_rate_hz == 5e6
    assert found.values[:, 0].tolist() == [0.5, 0.5j]


def test_a_wav_is_read_with_its_rate(modules, tmp_path):
    pairs = (np.stack([signal().real, signal().imag], -1) * 2**13).astype("<i2")
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((2, 2, int(RATE_HZ), 0, "NONE", ""))
        file.writeframes(pairs.tobytes())
    found = modules["inputs"].read_upload([str(tmp_path / "a.wav")], None, 1, 0)
    assert (found.kind, found.length, found.sampling_rate_hz) == ("iq", 2048, RATE_HZ)
    np.testing.assert_array_equal(found.values[0], (pairs / np.float32(2**15)).view(np.complex64)[:, 0])


def test_constellations_are_centred(modules):
    """QPSK of 4 samples a symbol, 7 % off: after centring its symbols are in four places."""
    rng = np.random.default_rng(0)
    symbols = np.exp(1j * np.pi / 2 * rng.integers(4, size=512))
    samples = np.repeat(symbols, 4) * np.exp(2j * np.pi * 0.07 * np.arange(2048)) * 3
    one = modules["inputs"].Signal("x", "iq", samples[None].astype(np.complex64), 2048)
    centred, offset = modules["plots"].center(one)
    assert offset == pytest.approx(0.07, abs=1e-4)
    assert np.mean(np.abs(centred) ** 2) == pytest.approx(1, abs=1e-5)
    assert abs(np.mean(centred**4)) > 0.9  # 0 where the phase turns


def test_what_the_model_cannot_take_is_said(modules, models):
    """A rate that would make thousands of samples of one, more antennas than the model has: a note, quickly."""
    Signal, Serving = modules["inputs"].Signal, modules["serving"].Serving
    serving = Serving(str(models / "base"), [str(models / "adapters" / "signals-lora")])
    for processor in (serving.processor, *serving.processors.values()):
        processor.feature_extractor.sampling_rate_hz = RATE_HZ
    [prediction] = serving.predict(Signal("slow", "iq", signal()[None], 2048, RATE_HZ / 1000))
    assert (prediction.unit, prediction.values) == ("", []) and "within 100 times 1e+06 Hz" in prediction.note
    [prediction] = serving.predict(Signal("other", "iq", signal()[None], 2048, RATE_HZ / 2))
    assert prediction.note == "trained at 1 MS/s; converted from 0.5 MS/s"
    assert sum(score for _, score in prediction.values) == pytest.approx(1, abs=1e-5)
    found, note = serving.reconstruct(Signal("wide", "iq", np.repeat(signal()[None], 6, 0), 2048), 0.5)
    assert found == {} and "at most 5 antennas, this recording has 6" in note
    assert serving.embed(Signal("wide", "iq", np.repeat(signal()[None], 6, 0), 2048)) is None


@pytest.mark.parametrize("normalized", [False, True])
def test_a_model_of_spectra_shows_the_spectrum_over_time(modules, tmp_path, normalized):
    """A carrier that the processor moves to 0 Hz is a line in the middle row; the rest as for the waveform."""
    Signal, Serving = modules["inputs"].Signal, modules["serving"].Serving
    make(MMWFMForPreTraining, normalize_targets=normalized, **RELEASED).save_pretrained(tmp_path / "base")
    processor = MMWFMProcessor(
        MMWFMFeatureExtractor(center_carrier=True), MMWFMImageProcessor(size={"height": 32, "width": 32})
    )
    head = {"id2label": dict(enumerate(LABELS)), "problem_type": "single_label_classification"}
    write_adapter(tmp_path / "base", tmp_path / "tones-lora", ["iq"], head)
    for folder in (tmp_path / "base", tmp_path / "tones-lora"):
        processor.save_pretrained(folder)
    serving = Serving(str(tmp_path / "base"), [str(tmp_path / "tones-lora")])
    time_ = np.arange(4096)
    tone = np.exp(2j * np.pi * time_ * np.where(time_ < 3072, 0.2, 0.3)).astype(np.complex64)[None]
    one = Signal("tone", "iq", tone, 4096)
    found, note = serving.reconstruct(one, 0.25)
    assert list(found) == ["log_spectrum", "image"] and note == ""
    parts = found["log_spectrum"]
    assert parts.original.shape == (1, 64, 64) and (parts.num_tokens, parts.num_masked) == (64, 16)
    rows = parts.original[0].argmax(0)  # from the lowest frequency up: 0 Hz in row 32, 0.1 of the rate 6 rows above
    assert set(rows[:48]) == {32} and set(rows[48:]) == {38}
    hidden = np.isnan(parts.masked)
    assert set(hidden.mean((0, 1))) == {0.0, 1.0} and hidden.mean() == 0.25
    assert np.array_equal(parts.reconstructed[~hidden], parts.original[~hidden])
    error = np.square(parts.reconstructed - parts.original)[hidden].mean()
    variance = parts.original[hidden].var(ddof=1)
    assert parts.error_db == pytest.approx(10 * np.log10(error / variance), abs=1e-3)
    more = serving.reconstruct(one, 0.5)[0]["log_spectrum"]
    assert np.isnan(more.masked[hidden]).all()
    assert "<svg" in modules["plots"].plot_image(parts)
    import page

    assert "16 of 64 segments hidden (25 %)" in page.reconstruction_note("log_spectrum", parts)
    [prediction] = serving.predict(one)
    with torch.no_grad():
        scores = load_adapted(tmp_path / "tones-lora")(**processor(iq=tone)).logits[0].softmax(-1)
    assert dict(prediction.values) == pytest.approx(dict(zip(LABELS, scores.tolist())), abs=1e-5)
    assert serving.embed(one).shape == (32,)


def csi_signal(modules, rate_hz=100.0, **fields):
    values = np.random.default_rng(0).rayleigh(size=(3, 16, 60)).astype(np.float32)
    return modules["inputs"].Signal("motion", "csi", values, 60, rate_hz, **fields)


def test_csi_goes_where_the_processor_says(modules, models):
    """Base and adapter see the processor's view of CSI; the adapter tells what the model alone tells."""
    folder, one = models / "adapters" / "motion-lora", csi_signal(modules)
    serving = modules["serving"].Serving(str(models / "base"), [str(folder)])
    processor = MMWFMProcessor.from_pretrained(folder)
    batch = processor(csi=one.values)
    found, note = serving.reconstruct(one, 0.5)
    assert list(found) == ["csi"] and note == ""
    np.testing.assert_array_equal(found["csi"].original, batch["pixel_values"][0].numpy())
    with torch.no_grad():
        expected = load_adapted(folder)(**batch)
        row = serving.model.mmwfm(**batch).last_hidden_state[0, 1:].mean(0)
    np.testing.assert_allclose(serving.embed(one), row, rtol=1e-5)
    [prediction] = serving.predict(one)
    scores = dict(zip(MOTIONS, expected.logits[0].softmax(-1).tolist()))
    assert dict(prediction.values) == pytest.approx(scores, abs=1e-5)
    assert prediction.novelty == pytest.approx(expected.novelty.item(), rel=1e-4) and prediction.novelty > 1
    serving.processors["motion-lora"].csi_processor.packet_rate_hz = 500.0
    assert serving.predict(one)[0].note == "trained at 500 packets/s; this recording has 100"
    [prediction] = serving.predict(csi_signal(modules, 0.0))
    assert prediction.note == "trained at 500 packets/s; the rate of this recording is not known"
    assert serving.predict(csi_signal(modules, 450.0))[0].note == ""
    image = modules["inputs"].Signal("x", "image", np.ones((1, 32, 32), np.float32), 32)
    assert serving.predict(image)[0].note == "takes CSI; this recording is an image"


def test_older_processors_say_it_by_their_views(modules, models):
    """Without a kind the input modules decide; a view of CSI in the image processor takes CSI for images."""
    one = csi_signal(modules)
    serving = modules["serving"].Serving(str(models / "base"), [str(models / "adapters" / "place-lora")])
    processor = serving.processors["place-lora"]
    assert serving.predict(one)[0].note == "takes images; this recording is CSI"
    processor.image_processor = MMWFMImageProcessor(size={"height": 32, "width": 32}, csi_to_db=True)
    serving.adapters.tasks["place-lora"].config.num_channels = 3
    image = modules["inputs"].Signal("motion", "image", one.values[:1], 60)
    mono = modules["inputs"].Signal("motion", "csi", one.values[:1], 60)
    [as_csi], [as_image] = serving.predict(mono), serving.predict(image)
    assert as_csi.unit == "m" and as_csi.values == as_image.values and as_csi.novelty is None
    processor.kind = "images"
    assert serving.predict(mono)[0].note == "takes images; this recording is CSI"


def test_views_of_iq_are_those_of_the_processor(modules, models, tmp_path):
    processor = MMWFMProcessor.from_pretrained(models / "base")
    head = {"id2label": dict(enumerate(LABELS)), "problem_type": "single_label_classification"}
    one = modules["inputs"].Signal("x", "iq", signal()[None], 2048)
    for name, families, views, kind in (
        ("both-lora", ["iq", "image"], ["iq", "spectrogram"], "iq"),
        ("picture-lora", ["image"], ["spectrogram"], "iq"),
        ("pair-lora", ["iq", "image"], ["iq"], None),
    ):
        write_adapter(models / "base", tmp_path / name, families, head)
        processor.iq_views, processor.kind = views, kind
        processor.save_pretrained(tmp_path / name)
        [found] = modules["serving"].Serving(str(models / "base"), [str(tmp_path / name)]).predict(one)
        if kind is None:
            assert found.values == [] and found.note == "takes IQ and images; this recording is IQ"
            continue
        with torch.no_grad():
            logits = load_adapted(tmp_path / name)(**processor(iq=signal()[None], views=views)).logits[0]
        assert dict(found.values) == pytest.approx(dict(zip(LABELS, logits.softmax(-1).tolist())), abs=1e-5)


def test_only_what_is_unlike_the_training_rows_is_marked(modules):
    import page

    def card(novelty, unit="score"):
        return page.prediction(modules["serving"].Prediction("x", unit, [("a", 0.9)], "", novelty))

    assert "unlike its training data (novelty 3.2)" in card(3.2) and "adapter unlike" in card(3.2)
    assert "unlike its training data (novelty 1.04)" in card(1.04, "m")
    assert "novelty 0.4<" in card(0.4) and "unlike" not in card(0.4)
    assert "novelty" not in card(None) and "unlike" not in card(None)


def test_csi_is_drawn_over_seconds_where_the_rate_is_known(modules):
    plots, known, unknown = modules["plots"], csi_signal(modules), csi_signal(modules, 0.0)
    for draw in (plots.plot_waterfall, plots.plot_doppler):
        assert "time (s)" in draw(known) and "packet" not in draw(known)
        assert "packet" in draw(unknown) and "time (s)" not in draw(unknown)
    np.testing.assert_allclose(plots.amplitude(known), known.values.mean(0), rtol=1e-6)
    short = modules["inputs"].Signal("short", "csi", np.ones((1, 1, 16), np.complex64), 16)
    assert "<svg" in plots.plot_doppler(short) and plots.thumbnail(short).size == (160, 120)


def test_targets_that_are_not_drawn_are_named(modules, tmp_path):
    make(MMWFMForPreTraining, iq_targets={"envelope": 1.0}).save_pretrained(tmp_path / "base")
    MMWFMProcessor().save_pretrained(tmp_path / "base")
    serving = modules["serving"].Serving(str(tmp_path / "base"), [])
    found, note = serving.reconstruct(modules["inputs"].Signal("x", "iq", signal()[None], 2048), 0.5)
    assert list(found) == ["image"] and note == "base reconstructs of IQ its envelope, which is not drawn here"


def test_a_copy_of_an_example_is_its_nearest(modules, models):
    serving, (shown, others) = modules["serving"], modules["inputs"].read_examples()
    bank = serving.Bank(serving.Serving(str(models / "base"), []), others)
    [(nearest, cosine), *rest] = bank.nearest(others[3], count=3)
    assert nearest is others[3] and cosine == pytest.approx(1, abs=1e-4)
    assert len(rest) == 2 and all(-1 <= other < cosine for _, other in rest)
    assert not {example.name for example in shown} & {example.name for example in others}


def test_a_wrong_model_or_adapter_is_refused(modules, models, tmp_path, capsys):
    make(MMWFMForSequenceClassification, num_labels=2).save_pretrained(tmp_path / "classifier")
    make(MMWFMForPreTraining, hidden_size=64).save_pretrained(tmp_path / "wide")
    write_adapter(tmp_path / "wide", tmp_path / "wide-lora", ["iq"], {"num_labels": 2})
    for line, message in (
        (["--model", str(tmp_path / "none")], "expected the folder or Hub name of a model"),
        (["--model", str(tmp_path / "classifier")], "expected a pretraining checkpoint"),
        (["--model", str(models / "base"), "--adapters", str(models / "base")], "expected an adapter or a folder of"),
        (["--model", str(models / "base"), "--adapters", str(tmp_path / "none")], "found none at"),
        (
            ["--model", str(models / "base"), "--adapters", str(tmp_path / "wide-lora")],
            "expected an adapter of a base",
        ),
    ):
        with pytest.raises(SystemExit) as stopped:
            modules["app"].main(line)
        assert stopped.value.code == 1 and message in capsys.readouterr().err


def test_adapters_beside_the_model_are_found(modules, models, tmp_path, caplog):
    shutil.copytree(models / "base", tmp_path / "base")
    shutil.copytree(models / "adapters" / "place-lora", tmp_path / "adapters" / "place")
    shutil.copytree(models / "adapters" / "signals-lora", tmp_path / "signals")
    make(MMWFMForPreTraining, hidden_size=64).save_pretrained(tmp_path / "wide")
    write_adapter(tmp_path / "wide", tmp_path / "wide-lora", ["iq"], {"num_labels": 2})
    found = modules["serving"].fitting_adapters(str(tmp_path / "base"))
    assert found == [str(tmp_path / "adapters" / "place"), str(tmp_path / "signals")]
    assert "wide-lora is left out: trained on a model of other sizes" in caplog.text


def test_examples_are_small_and_come_from_the_simulators():
    from training_scripts.space import make_examples

    assert {entry["file"] for entry in EXAMPLES} == {path.name for path in (SPACE / "examples").glob("*.npy")}
    for entry in EXAMPLES:
        assert (SPACE / "examples" / entry["file"]).stat().st_size <= 100_000
    for name in ("bpsk", "lora", "fm"):
        saved = np.load(SPACE / "examples" / f"modulation-{name}-1.npy")
        assert np.array_equal(saved, make_examples.modulation(name, 1)["array"])


def test_examples_of_csi_are_whole_activities_with_their_source():
    folder = ROOT / "examples" / "esp32-activities"
    with (folder / "metadata.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    entries = [entry for entry in EXAMPLES if entry["task"] == "csi"]
    assert [entry["shown"] for entry in entries] == [True] + [False] * (len(entries) - 1) and len(entries) > 5
    for entry in entries:
        saved = np.load(SPACE / "examples" / entry["file"])
        labels = [
            row["label"].lower().replace("_", "-")
            for row in rows
            if np.array_equal(np.load(folder / row["file_name"])[:, int(row["start"]) : int(row["stop"])], saved)
        ]
        assert labels == [entry["label"]] and saved.dtype == np.uint8
        assert (entry["kind"], entry["sampling_rate_hz"]) == ("csi", 100) and "Apache-2.0" in entry["source"]


def test_front_matter_fits_the_requirements():
    _, front, _ = (SPACE / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert (card["sdk"], card["license"]) == ("gradio", "apache-2.0") and (SPACE / card["app_file"]).is_file()
    requirement = next(line for line in (SPACE / "requirements.txt").read_text().splitlines() if "gradio" in line)
    assert requirement == "gradio>=" + card["sdk_version"].rsplit(".", 1)[0] + ",<7"
    assert len(card["short_description"]) <= 60
