"""The exported graph computes what the model does, at sizes it was not exported with."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from modeling_mmwfm import IQFMConfig, IQFMModel, MMWFMForPreTraining, MMWFMForSequenceClassification, MMWFMModel
from modeling_mmwfm.finetuning_mmwfm import load_adapted
from tests.small_models import RELEASED, images, iq, make, write_adapter

REASON = "ONNX export is optional: pip install onnx onnxscript onnxruntime"
onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)
onnx = pytest.importorskip("onnx", reason=REASON)
pytest.importorskip("onnxscript", reason=REASON)

from onnx import numpy_helper  # noqa: E402

from modeling_mmwfm.onnx_mmwfm import ExportArguments, export, largest_difference  # noqa: E402
from modeling_mmwfm.recipes_mmwfm import run_script  # noqa: E402

# (batch, antennas, samples), (batch, rows, columns of patches); the exporter saw (2, 3, 100) and (2, 5, 7)
IQ_SIZES = [(1, 1, 1), (4, 1, 8), (1, 5, 33), (3, 2, 200), (2, 3, 101)]
IMAGE_SIZES = [(1, 1, 1), (4, 8, 3), (1, 2, 9), (3, 5, 5), (2, 5, 7)]


def run(path, inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == list(inputs)
    return session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]


def assert_same(path, model, batches, key):
    for inputs in batches:
        with torch.no_grad():
            expected = getattr(model(**inputs), key).numpy()
        assert np.abs(expected).max() > 1e-2
        np.testing.assert_allclose(run(path, inputs), expected, atol=1e-4, rtol=1e-4)


def test_joint_padded_input_with_an_adapter(tmp_path):
    base = make(MMWFMForSequenceClassification, num_labels=3, pooling="mean", num_hidden_layers=1)
    base.save_pretrained(tmp_path / "base")
    lora = LoraConfig(
        r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"], init_lora_weights=False
    )
    adapted = get_peft_model(MMWFMForSequenceClassification.from_pretrained(tmp_path / "base"), lora).eval()
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.config.save_pretrained(tmp_path / "adapter")
    arguments = ExportArguments(str(tmp_path / "adapter"), str(tmp_path / "out.onnx"), ["iq", "image"], padding=True)
    path = export(arguments)
    assert [file.name for file in tmp_path.iterdir() if "onnx" in file.name] == ["out.onnx"]
    assert b"modeling_mmwfm.py" not in path.read_bytes()  # where the exporter found the code
    batches = []
    for size, (batch, rows, columns) in zip(IQ_SIZES, IMAGE_SIZES):
        mask = torch.ones(size, dtype=torch.int64)
        mask[0, -1, (size[2] + 1) // 2 :] = 0
        pixels = images(batch, 1, 4 * rows, 4 * columns)
        batches.append({"iq_values": iq(*size), "iq_attention_mask": mask, "pixel_values": pixels})
    assert_same(path, adapted, batches, "logits")
    with torch.no_grad():
        assert not np.allclose(run(path, batches[3]), base(**batches[3]).logits.numpy(), atol=1e-3)


def test_an_adapter_of_images_is_exported_for_images(tmp_path):
    make(MMWFMForPreTraining).save_pretrained(tmp_path / "base")
    adapted = write_adapter(tmp_path / "base", tmp_path / "adapter", ["image"], {"num_labels": 3})
    path = export(ExportArguments(str(adapted), str(tmp_path / "out.onnx")))
    batches = [{"pixel_values": images(batch, 1, 4 * rows, 4 * columns)} for batch, rows, columns in IMAGE_SIZES]
    assert_same(path, load_adapted(adapted), batches, "logits")


@pytest.mark.parametrize("settings", [{}, RELEASED], ids=["paper", "released"])
def test_iq_in_metres(tmp_path, settings):
    box = {"label_min": [0.0, -5.0], "label_max": [80.0, 5.0]}
    settings = {"problem_type": "regression", "num_labels": 2, "num_hidden_layers": 1, **box, **settings}
    model = make(MMWFMForSequenceClassification, seed=3, **settings)
    model.save_pretrained(tmp_path / "model")
    path = export(ExportArguments(str(tmp_path / "model"), str(tmp_path / "out.onnx")))
    assert_same(path, model, [{"iq_values": iq(*size)} for size in IQ_SIZES], "logits")
    # What guards every export: another model's graph is not this model's.
    assert largest_difference(make(MMWFMForSequenceClassification, **settings), path, ["iq_values"]) > 1e-2


def test_an_encoder_of_images_with_its_weights_in_8_bits(tmp_path):
    settings = {"hidden_size": 128, "num_hidden_layers": 1, "intermediate_size": 512, "input_channels": 3}
    model = make(MMWFMModel, modalities=("image",), **settings)
    model.save_pretrained(tmp_path / "model")
    path = export(ExportArguments(str(tmp_path / "model"), str(tmp_path / "small.onnx"), quantize=True))
    assert path.stat().st_size < 0.4 * (tmp_path / "model" / "model.safetensors").stat().st_size
    weights = [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    largest = [np.abs(values.astype(int)).max() for values in weights if values.dtype == np.int8 and values.ndim == 2]
    # Two products with a byte of the input, which processors without VNNI add in 16 bits, do not overflow.
    assert len(largest) >= 6 and 32 < max(largest) <= (2**15 - 1) // (2 * 255)
    for batch, rows, columns in IMAGE_SIZES:
        pixels = images(batch, 3, 4 * rows, 4 * columns)
        with torch.no_grad():
            expected = model(pixel_values=pixels).pooler_output.numpy()
        error = np.linalg.norm(run(path, {"pixel_values": pixels}) - expected) / np.linalg.norm(expected)
        assert 1e-4 < error < 0.1


def test_wrong_arguments_are_named(tmp_path, monkeypatch):
    make(MMWFMModel, modalities=("image",)).save_pretrained(tmp_path / "model")
    IQFMModel(IQFMConfig()).save_pretrained(tmp_path / "iqfm")
    for arguments, message in [
        ({"output": "x.pt"}, "`output`: expected a name that ends in .onnx, found x.pt"),
        ({"model": "absent"}, "expected the folder of a model, found none at absent"),
        ({"model": str(tmp_path / "iqfm")}, "expected a model of type mmwfm in .*iqfm, found iqfm"),
        ({"inputs": ["iq"]}, "`inputs`: expected some of \\['image'\\], found \\['iq'\\]"),
        ({"padding": True}, "`padding`: expected IQ among the inputs"),
    ]:
        settings = {"model": str(tmp_path / "model"), "output": str(tmp_path / "x.onnx"), **arguments}
        with pytest.raises(ValueError, match=message):
            export(ExportArguments(**settings))
    monkeypatch.setattr("sys.argv", ["export_onnx.py", "--model", "absent", "--output", "x.onnx"])
    with pytest.raises(SystemExit, match="export_onnx.py: error: expected the folder of a model"):
        run_script(export, ExportArguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iqfm", "model"]
