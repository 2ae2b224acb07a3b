"""What is published of a pretraining run."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor

from modeling_mmwfm.publishing_mmwfm import check_folder
from tests.small_sets import run_pretraining

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "training_scripts" / "release.py"
RELEASED = ROOT / "model_cards" / "mmwfm-small"
TASKS = ("rfp", "interference", "has", "rfs", "pos-indoor", "pos-outdoor")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    run_pretraining(folder)
    return folder


@pytest.fixture(scope="module")
def release():
    script = runpy.run_path(str(SCRIPT))
    return lambda run, folder: script["main"](script["ReleaseArguments"](str(run), str(folder)))


def test_half_the_bytes_open_as_float32_with_the_same_features(run, release, tmp_path):
    release(run, tmp_path / "released")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (run, tmp_path / "released")]
    assert sizes[1] < 0.55 * sizes[0]
    assert {value.dtype for value in load_file(tmp_path / "released" / "model.safetensors").values()} == {torch.half}
    iq = np.exp(0.3j * np.arange(512))[None]
    features = []
    for folder in (run, tmp_path / "released"):
        model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        features.append(model(**processor(iq=iq)).pooler_output)
    torch.testing.assert_close(features[1], features[0], rtol=0, atol=5e-3)
    assert not torch.equal(features[1], features[0])
    log = json.loads((tmp_path / "released" / "training_log.json").read_text())
    assert log == json.loads((run / "training_log.json").read_text())


def test_a_card_that_is_there_stays_and_the_decoder_comes_along(run, release, tmp_path):
    (tmp_path / "README.md").write_text("written by hand")
    release(run, tmp_path)
    assert (tmp_path / "README.md").read_text() == "written by hand"
    names = AutoModelForPreTraining.from_pretrained(run, trust_remote_code=True).state_dict().keys()
    assert load_file(tmp_path / "model.safetensors").keys() == names
    assert not list(tmp_path.parent.glob(".unfinished-*"))


def test_an_unfinished_run_is_refused(run, release, tmp_path):
    with pytest.raises(ValueError, match="finished pretraining run, found no training_log.json"):
        release(tmp_path, tmp_path / "released")
    assert not (tmp_path / "released").exists()


@pytest.mark.parametrize("folder", ["mmwfm-small", *(f"adapters/{task}" for task in TASKS)])
def test_released_code_is_that_of_the_package(folder):
    files = sorted((RELEASED.parent / folder).glob("*.py"))
    assert files
    for file in files:  # `make release-code` brings it up to date
        assert file.read_text() == (ROOT / "modeling_mmwfm" / file.name).read_text(), file


def test_the_released_folders_pass_the_checks_of_publishing():
    check_folder(RELEASED, "user/mmwfm-small")
    for task in TASKS:
        check_folder(RELEASED.parent / "adapters" / task, f"user/{task}", base_model="user/mmwfm-small")
    assert (RELEASED / "model.safetensors").stat().st_size <= 20e6


@pytest.mark.parametrize("task", TASKS)
def test_a_released_adapter_opens_in_a_fresh_process_and_answers(task):
    """Without the package: by peft, as the card says, on the checkout's base."""
    inputs = "processor(iq=noise(1, 4096))" if task in ("rfp", "interference") else "processor(images=image)"
    code = f"""
import numpy as np, sys
from pathlib import Path
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoProcessor
noise = lambda *shape: np.random.default_rng(0).standard_normal(shape) + 1j
name = "model_cards/adapters/{task}"
processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
image = abs(noise(len(processor.image_processor.image_mean or [0]), 64, 64)).astype(np.float32)
config = AutoConfig.from_pretrained(name, trust_remote_code=True)
base = AutoModelForSequenceClassification.from_pretrained("model_cards/mmwfm-small", config=config, trust_remote_code=True)
model = PeftModel.from_pretrained(base, name).eval()
logits = model(**{inputs}).logits
assert logits.shape == (1, config.num_labels) and logits.isfinite().all(), logits
assert "modeling_mmwfm" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
