"""A saved folder is complete: it opens in a process that has never seen this package."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

from modeling_mmwfm import (
    MMWFMConfig,
    MMWFMFeatureExtractor,
    MMWFMForPreTraining,
    MMWFMForSequenceClassification,
    MMWFMImageProcessor,
    MMWFMModel,
    MMWFMProcessor,
)

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "modeling_mmwfm"
HUB_FILES = [
    "adapter_opening_mmwfm.py",
    "pipeline_mmwfm.py",
    "recordings_mmwfm.py",
    "csi_captures_mmwfm.py",
    "configuration_mmwfm.py",
    "modeling_mmwfm.py",
    "feature_extraction_mmwfm.py",
    "image_processing_mmwfm.py",
    "processing_mmwfm.py",
    "tokens_mmwfm.py",
    "objectives_mmwfm.py",
    "checks_mmwfm.py",
    "task_head_mmwfm.py",
    "views_mmwfm.py",
    "attention_mmwfm.py",
]

# Loads every class from argv[1] and from the folder that argv[2] names, saves again to argv[3] and loads that.
READER = """
import sys
sys.modules["modeling_mmwfm"] = None
import numpy as np, torch, transformers
first, inputs, second, result = sys.argv[1:]
arrays = dict(np.load(inputs))
names = ("AutoModel", "AutoModelForPreTraining", "AutoModelForSequenceClassification",
         "AutoModelForImageClassification", "AutoModelForAudioClassification")

def outputs(folder):
    load = lambda name, **kw: getattr(transformers, name).from_pretrained(folder, trust_remote_code=True, **kw)
    config, processor = load("AutoConfig"), load("AutoProcessor")
    found = {"config": config.to_json_string(use_diff=False)}
    batch = processor(iq=arrays["iq"], images=arrays["images"], sampling_rate_hz=1e6)
    extractor, image_processor = load("AutoFeatureExtractor"), load("AutoImageProcessor")
    found["iq_values"], found["pixel_values"] = batch["iq_values"], batch["pixel_values"]
    found["iq_alone"] = extractor(arrays["iq"], sampling_rate_hz=1e6)["iq_values"]
    found["pixels_alone"] = image_processor(arrays["images"])["pixel_values"]
    found["spectrogram"] = processor.spectrogram(arrays["iq"], sampling_rate_hz=1e6)
    noise = {"iq_noise": torch.tensor(arrays["iq_noise"]), "image_noise": torch.tensor(arrays["image_noise"])}
    for name in names:
        model = load(name).eval()
        assert "transformers_modules" in type(model).__module__, type(model)
        with torch.no_grad():
            output = model(**batch, **(noise if name == "AutoModelForPreTraining" else {}))
        found[name + " class"] = type(model).__name__
        found[name] = output[{"AutoModel": "pooler_output", "AutoModelForPreTraining": "loss"}.get(name, "logits")]
        found[name + " encoder"] = {k: v for k, v in getattr(model, "mmwfm", model).state_dict().items()}
    for part in (config, processor, extractor, image_processor):
        assert "transformers_modules" in type(part).__module__, type(part)
        found[type(part).__name__] = True
    return found, load("AutoModelForPreTraining"), processor, load

found, model, processor, load = outputs(first)
model.save_pretrained(second)
processor.save_pretrained(second)
again = outputs(second)[0]
bf16 = load("AutoModel", dtype=torch.bfloat16)
bf16.save_pretrained(second + "-bf16")
kept = transformers.AutoModel.from_pretrained(second + "-bf16", trust_remote_code=True, dtype="auto")
types = [{str(p.dtype) for p in m.parameters()} for m in (bf16, kept)]
torch.save({"first": found, "again": again, "types": types}, result)
"""


@pytest.mark.parametrize("name", HUB_FILES)
def test_hub_files_import_only_their_neighbours_and_the_four_libraries(name):
    allowed = {"torch", "numpy", "transformers", "huggingface_hub"} | set(sys.stdlib_module_names)
    imports = set(get_imports(PACKAGE / name))
    assert imports and imports <= allowed
    for path in get_relative_import_files(PACKAGE / name):
        assert Path(path).is_file() and Path(path).name in HUB_FILES
    for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module and "." not in node.module, ast.unparse(node)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            assert not any(module.startswith("modeling_mmwfm") for module in modules)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """(what this process computed, what a fresh one computed from the folder)"""
    work = tmp_path_factory.mktemp("remote")
    torch.manual_seed(0)
    config = MMWFMConfig.from_pretrained(ROOT / "configuration" / "models" / "tiny")
    model = MMWFMForPreTraining(config).eval()
    rng = np.random.default_rng(0)
    arrays = {
        "iq": (rng.standard_normal((2, 2, 2048)) + 1j * rng.standard_normal((2, 2, 2048))).astype(np.complex64),
        "images": rng.random((2, 1, 40, 50)).astype(np.float32),
        "iq_noise": rng.random((2, 256), dtype=np.float32),
        "image_noise": rng.random((2, 16), dtype=np.float32),
    }
    rows = [{"iq": iq, "image": image, "sampling_rate_hz": 1e6} for iq, image in zip(arrays["iq"], arrays["images"])]
    processor = MMWFMProcessor(
        MMWFMFeatureExtractor(normalization="dataset", n_fft=256, hop_length=128),
        MMWFMImageProcessor(normalization="dataset", size={"height": 64, "width": 64}),
    ).fit(rows)
    model.save_pretrained(work / "first")
    processor.save_pretrained(work / "first")
    np.savez(work / "inputs.npz", **arrays)
    (work / "elsewhere").mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(work / "home")}
    done = subprocess.run(
        [sys.executable, "-c", READER, *(str(work / name) for name in ("first", "inputs.npz", "second", "result.pt"))],
        cwd=work / "elsewhere",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    batch = processor(iq=arrays["iq"], images=arrays["images"], sampling_rate_hz=1e6)
    noise = {name: torch.tensor(arrays[name]) for name in ("iq_noise", "image_noise")}
    with torch.no_grad():
        here = {
            "iq_values": batch["iq_values"],
            "iq_alone": batch["iq_values"],
            "pixel_values": batch["pixel_values"],
            "pixels_alone": batch["pixel_values"],
            "spectrogram": processor.spectrogram(arrays["iq"], sampling_rate_hz=1e6),
            "AutoModel": model.mmwfm(**batch).pooler_output,
            "AutoModelForPreTraining": model(**batch, **noise).loss,
        }
    return {"here": here, "model": model, "folder": work / "first", **torch.load(work / "result.pt")}


@pytest.mark.parametrize("folder", ["first", "again"])
def test_a_fresh_process_computes_the_same_from_the_folder_and_from_its_copy(opened, folder):
    for name, expected in opened["here"].items():
        torch.testing.assert_close(opened[folder][name], expected, msg=f"{folder} {name}")
    assert opened["here"]["AutoModel"].abs().max() > 0.1


@pytest.mark.parametrize("folder", ["first", "again"])
def test_every_auto_class_opens_the_folder_with_bit_equal_parameters(opened, folder):
    classes = {"AutoModel": "MMWFMModel", "AutoModelForPreTraining": "MMWFMForPreTraining"}
    for family in ("Sequence", "Image", "Audio"):
        classes[f"AutoModelFor{family}Classification"] = "MMWFMForSequenceClassification"
    expected = opened["model"].mmwfm.state_dict()
    for name, class_name in classes.items():
        assert opened[folder][f"{name} class"] == class_name
        found = opened[folder][f"{name} encoder"]
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected), name
    for name in ("MMWFMConfig", "MMWFMProcessor", "MMWFMFeatureExtractor", "MMWFMImageProcessor"):
        assert opened[folder][name]
    assert json.loads(opened[folder]["config"])["hidden_size"] == 64


def test_bfloat16_survives_saving_and_loading(opened):
    assert opened["types"] == [{"torch.bfloat16"}] * 2


def test_the_folder_carries_every_hub_file_unchanged(opened):
    for name in HUB_FILES:
        assert (opened["folder"] / name).read_text() == (PACKAGE / name).read_text()


@pytest.mark.parametrize("model_class", [MMWFMModel, MMWFMForPreTraining, MMWFMForSequenceClassification])
def test_all_parameters_are_bit_equal_after_reloading(model_class, tmp_path):
    torch.manual_seed(1)
    model = model_class(MMWFMConfig.from_pretrained(ROOT / "configuration" / "models" / "tiny"))
    model.save_pretrained(tmp_path)
    again, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    state = model.state_dict()
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())


def test_an_encoder_alone_and_a_pretraining_model_share_weights(tmp_path):
    torch.manual_seed(2)
    model = MMWFMForPreTraining(MMWFMConfig.from_pretrained(ROOT / "configuration" / "models" / "tiny"))
    model.save_pretrained(tmp_path / "all")
    encoder = MMWFMModel.from_pretrained(tmp_path / "all")
    encoder.save_pretrained(tmp_path / "encoder")
    classifier = MMWFMForSequenceClassification.from_pretrained(tmp_path / "encoder", num_labels=3)
    assert classifier.classifier.weight.shape == (3, 64)
    for key, value in model.mmwfm.state_dict().items():
        assert torch.equal(classifier.mmwfm.state_dict()[key], value), key


def test_other_channels_and_a_fresh_adapter_load_over_a_checkpoint(tmp_path):
    model = MMWFMModel(MMWFMConfig.from_pretrained(ROOT / "configuration" / "models" / "tiny")).eval()
    model.save_pretrained(tmp_path)
    adapted = MMWFMModel.from_pretrained(tmp_path, input_channels=3).eval()
    pixels = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(
        adapted(pixel_values=pixels).pooler_output,
        model(pixel_values=pixels.mean(1, keepdim=True)).pooler_output,
    )
