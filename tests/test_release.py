"""What is published of a pretraining run."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor

from tests.small_sets import run_pretraining

SCRIPT = Path(__file__).parents[1] / "training_scripts" / "release.py"


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
