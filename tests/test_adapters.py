"""Several adapters on one encoder: each gives what it gives alone, in any company."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForSequenceClassification

from modeling_mmwfm import (
    IQFMConfig,
    IQFMModel,
    MMWFMForPreTraining,
    MMWFMForSequenceClassification,
    MMWFMModel,
)
from modeling_mmwfm.adapters_mmwfm import MMWFMAdapters
from tests.small_models import RELEASED, SMALL, images, iq, make, pad_iq, write_adapter

# Heads of several sizes, classes and metres, both families, other channels, ranks and poolings.
TASKS = {
    "rfp": (["iq"], {"num_labels": 4}),
    "amc": (["iq"], {"num_labels": 11, "pooling": "mean"}),
    "csi": (["image"], {"num_labels": 6, "input_channels": 3}),
    "pos": (
        ["image"],
        {"num_labels": 2, "problem_type": "regression", "label_min": [0.0, -5.0], "label_max": [40.0, 5.0]},
    ),
    "both": (["iq", "image"], {"num_labels": 3, "pooling": "mean_std"}),
}
INPUTS = {
    "rfp": {"iq_values": iq(3, 2, 64)},
    "amc": pad_iq([iq(1, 1, 40)[0], iq(1, 2, 20)[0]]),  # 2 antennas of 5 segments, partly padding
    "csi": {"pixel_values": images(4, 3, 8, 12)},
    "pos": {"pixel_values": images(2, 1, 16, 16)},
    "both": {"iq_values": iq(2, 1, 32), "pixel_values": images(2, 1, 8, 8)},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters") / "base"
    make(MMWFMForPreTraining).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(base):
    return {
        name: write_adapter(base, base.parent / name, *task, rank=2 + number, seed=number)
        for number, (name, task) in enumerate(TASKS.items())
    }


@pytest.fixture(scope="module")
def alone(base, folders):
    """What peft computes with each adapter on a base of its own."""
    found = {}
    for name, folder in folders.items():
        model = MMWFMForSequenceClassification.from_pretrained(base, config=AutoConfig.from_pretrained(folder))
        model = PeftModel.from_pretrained(model, folder).eval()
        with torch.no_grad():
            found[name] = model(**INPUTS[name]).logits
    return found


@pytest.fixture
def adapters(base, folders):
    adapters = MMWFMAdapters.from_pretrained(base)
    for name, folder in folders.items():
        assert adapters.load(folder) == name
    return adapters


def close(found, expected):
    """Padding changes the order of sums in attention; metres are of the size of the box."""
    return torch.allclose(found, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


@torch.no_grad()
def test_each_adapter_gives_exactly_what_it_gives_alone(adapters, alone):
    assert adapters.names == list(TASKS) and adapters.active == "rfp"
    for name in [*TASKS, *reversed(TASKS)]:
        assert torch.equal(adapters(name, **INPUTS[name]).logits, alone[name])
        adapters.use(name)
        assert torch.equal(adapters(**INPUTS[name]).logits, alone[name])
    assert adapters.tasks["pos"].config.problem_type == "regression"
    assert alone["pos"].abs().max() > 5  # metres


@torch.no_grad()
def test_one_batch_of_all_tasks_gives_what_each_gives_alone(adapters, alone):
    passes = []
    adapters.encoder.layers[0].register_forward_hook(lambda *_: passes.append(1))
    found = adapters.forward_tasks(INPUTS)
    assert len(passes) == 1
    assert list(found) == list(TASKS)
    for name in TASKS:
        assert found[name].shape == alone[name].shape and close(found[name], alone[name]), name
    swapped = adapters.forward_tasks({"csi": INPUTS["csi"], "rfp": INPUTS["rfp"]})
    assert close(swapped["rfp"], alone["rfp"]) and close(swapped["csi"], alone["csi"])


@torch.no_grad()
def test_every_row_can_name_its_adapter(adapters):
    values = iq(6, 2, 64, seed=5)
    names = ["rfp", "amc", "rfp", "both", "amc", "rfp"]
    mixed = adapters(names, iq_values=values).logits
    assert mixed.shape == (6, 11)
    for row, name in enumerate(names):
        width = adapters.tasks[name].config.num_labels
        rows = [r for r, other in enumerate(names) if other == name]
        expected = adapters(name, iq_values=values[rows]).logits[rows.index(row)]
        assert close(mixed[row, :width], expected)
        assert torch.isneginf(mixed[row, width:]).all()
    pixels = images(2, 1, 8, 8)
    metres = adapters(["both", "pos"], pixel_values=pixels).logits
    assert torch.isnan(metres[1, 2:]).all() and not torch.isnan(metres[:, :2]).any()


@torch.no_grad()
def test_a_mixed_batch_costs_hardly_more_than_one_of_a_single_adapter(adapters):
    """In floating-point operations, which no other job on the machine changes; ranks differ: that of one in the middle."""
    values, flops = iq(32, 2, 64), []
    for names in ("rfp", ["rfp", "amc"] * 16):
        with FlopCounterMode(display=False) as counter:
            adapters(names, iq_values=values)
        flops.append(counter.get_total_flops())
    assert 0.95 * flops[0] < flops[1] < 1.1 * flops[0]


@torch.no_grad()
def test_unloading_leaves_the_others_and_at_last_the_encoder(adapters, base, folders, alone):
    before = MMWFMModel.from_pretrained(base).state_dict()
    adapters.unload("rfp")
    assert adapters.names == ["amc", "csi", "pos", "both"] and adapters.active is None
    with pytest.raises(ValueError, match="active adapter"):
        adapters(**INPUTS["rfp"])
    assert not any("rfp" in name for name, _ in adapters.named_modules())
    adapters.use("pos")
    adapters.unload("csi")
    assert adapters.active == "pos" and torch.equal(adapters(**INPUTS["pos"]).logits, alone["pos"])
    for name in adapters.names:
        adapters.unload(name)
    assert all(torch.equal(value, before[key]) for key, value in adapters.encoder.state_dict().items())
    assert adapters.encoder.state_dict().keys() == before.keys()
    adapters.load(folders["rfp"], "again")
    assert torch.equal(adapters(**INPUTS["rfp"]).logits, alone["rfp"])


@torch.no_grad()
def test_a_merged_adapter_is_a_model_of_its_own(adapters, alone, tmp_path):
    for name in ("csi", "pos"):
        adapters.merge(name).save_pretrained(tmp_path / name)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / name).eval()
        assert not any("lora" in key for key in model.state_dict())
        expected = alone[name]
        torch.testing.assert_close(model(**INPUTS[name]).logits, expected, rtol=1e-5, atol=1e-5)
    assert model.config.label_max == [40.0, 5.0]
    assert torch.equal(adapters("rfp", **INPUTS["rfp"]).logits, alone["rfp"])


@torch.no_grad()
@pytest.mark.parametrize("name", ["rfp", "csi", "pos"])
def test_transformers_itself_loads_an_adapter(base, folders, alone, name, caplog):
    config = AutoConfig.from_pretrained(folders[name])
    model = AutoModelForSequenceClassification.from_pretrained(base, config=config).eval()
    before = model(**INPUTS[name]).logits
    model.load_adapter(str(folders[name]), adapter_name=name)
    assert torch.equal(model(**INPUTS[name]).logits, alone[name])
    assert not torch.equal(before, alone[name])
    assert "classifier.weight" in caplog.text  # missing in the base, as transformers says
    caplog.clear()
    opened, _ = AutoModelForSequenceClassification.from_pretrained(folders[name], output_loading_info=True)
    assert torch.equal(opened.eval()(**INPUTS[name]).logits, alone[name])  # with base, head and labels
    assert not caplog.records  # the adapter brings what its base has not
    trained = PeftModel.from_pretrained(
        MMWFMForSequenceClassification.from_pretrained(base, config=config), folders[name], is_trainable=True
    )
    assert {"lora_A", "classifier"} <= {
        part for key, p in trained.named_parameters() if p.requires_grad for part in key.split(".")
    }
    assert torch.equal(trained.eval()(**INPUTS[name]).logits, alone[name])


@torch.no_grad()
def test_transformers_and_peft_switch_between_adapters_of_one_head(base, folders, alone, tmp_path):
    other = write_adapter(base, tmp_path / "other", *TASKS["rfp"], seed=9)
    config = AutoConfig.from_pretrained(folders["rfp"])
    native = MMWFMForSequenceClassification.from_pretrained(base, config=config).eval()
    native.load_adapter(str(folders["rfp"]), adapter_name="rfp")
    native.load_adapter(str(other), adapter_name="other")
    wrapped = MMWFMForSequenceClassification.from_pretrained(base, config=config)
    wrapped = PeftModel.from_pretrained(wrapped, folders["rfp"], adapter_name="rfp").eval()
    wrapped.load_adapter(str(other), adapter_name="other")
    adapters = MMWFMAdapters.from_pretrained(base)
    adapters.load(other)
    expected = {"rfp": alone["rfp"], "other": adapters(**INPUTS["rfp"]).logits}
    for name in ("rfp", "other", "rfp"):
        native.set_adapter(name)
        wrapped.set_adapter(name)
        assert torch.equal(native(**INPUTS["rfp"]).logits, expected[name])
        assert torch.equal(wrapped(**INPUTS["rfp"]).logits, expected[name])


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder, change):
    path = folder / "adapter_model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)


def drop(part):
    def change(state):
        for key in [key for key in state if part in key]:
            del state[key]

    return lambda folder: edit_weights(folder, change)


DAMAGE = {
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "found no adapter_model.safetensors"),
    "no head's configuration": (lambda f: (f / "config.json").unlink(), "found no config.json"),
    "cut weights": (lambda f: os.truncate(f / "adapter_model.safetensors", 900), "expected safetensors"),
    "broken settings": (lambda f: (f / "adapter_config.json").write_text("{"), "configuration of an adapter"),
    "other width": (lambda f: edit_json(f / "config.json", hidden_size=64), "`hidden_size` 32, found 64"),
    "other kind": (lambda f: IQFMConfig().save_pretrained(f), "`model_type` mmwfm, found iqfm"),
    "other depth": (lambda f: edit_json(f / "config.json", num_hidden_layers=3), "`num_hidden_layers` 2, found 3"),
    "other rank": (lambda f: edit_json(f / "adapter_config.json", r=7), "LoRA weights of the base's sizes"),
    "other method": (lambda f: edit_json(f / "adapter_config.json", use_dora=True), "expected plain LoRA"),
    "no head": (drop("classifier"), "input modules and head(.|\n)*classifier"),
    "no channel adapter": (drop("channel_adapter"), "channel_adapter"),
    "half the LoRA": (drop("layers.1"), "LoRA weights.*layers.1"),
    "other head": (
        lambda f: edit_json(f / "config.json", id2label={"0": "a"}, label2id={"a": 0}),
        "size mismatch for classifier",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.parametrize("loaded", [[], ["rfp", "pos"]], ids=["first", "third"])
def test_a_wrong_adapter_is_refused_and_leaves_no_trace(base, folders, alone, tmp_path, case, loaded):
    damage, message = DAMAGE[case]
    folder = shutil.copytree(folders["csi"], tmp_path / "csi")
    damage(folder)
    adapters = MMWFMAdapters.from_pretrained(base)
    for name in loaded:
        adapters.load(folders[name])
    before = list(adapters.state_dict())
    with pytest.raises(ValueError, match=message):
        adapters.load(folder)
    assert list(adapters.state_dict()) == before and adapters.names == loaded
    adapters.load(folders["csi"])  # the name is free
    with torch.no_grad():
        found = adapters.forward_tasks({name: INPUTS[name] for name in [*loaded, "csi"]})
    assert all(close(found[name], alone[name]) for name in found)


def test_unknown_names_and_other_models_are_refused(adapters, folders, tmp_path):
    for call in (adapters.use, adapters.unload, adapters.merge, lambda name: adapters(name, **INPUTS["rfp"])):
        with pytest.raises(ValueError, match="found nobody"):
            call("nobody")
    with pytest.raises(ValueError, match="each of 3 rows, found 2"):
        adapters(["rfp", "amc"], **INPUTS["rfp"])
    with pytest.raises(ValueError, match="at least one"):
        adapters.forward_tasks({})
    with pytest.raises(ValueError, match="`pixel_values`: expected 3 channels"):
        adapters("csi", **INPUTS["pos"])
    for name in ("rfp", "a.b", "", "lora", "__base__", "keys"):
        with pytest.raises(ValueError, match="`name`"):
            adapters.load(folders["rfp"], name)
    with pytest.raises(ValueError, match="none at .*nothing"):
        adapters.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no adapter_config.json"):
        adapters.load(adapters.merge("rfp").save_pretrained(tmp_path / "model") or tmp_path / "model")
    from transformers import ViTConfig, ViTModel

    other = ViTModel(ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=8))
    with pytest.raises(ValueError, match="expected a model of type mmwfm.*found vit"):
        MMWFMAdapters(other)
    with pytest.raises(ValueError, match="found iqfm: `pipeline` and `load_adapted` open adapters of other models"):
        MMWFMAdapters(IQFMModel(IQFMConfig()))


def test_an_adapter_of_another_base_of_the_same_sizes_is_warned_about(base, folders, tmp_path, caplog, monkeypatch):
    make(MMWFMForPreTraining, seed=1).save_pretrained(tmp_path / "other")
    adapters = MMWFMAdapters.from_pretrained(tmp_path / "other")
    with caplog.at_level("WARNING"):
        adapters.load(folders["rfp"])
    assert f"trained on {base} and is loaded on {tmp_path / 'other'}: if these are not the same" in caplog.text
    caplog.clear()
    monkeypatch.chdir(Path(base).parent)
    for name in (base, Path(base).name):  # absolute and relative
        MMWFMAdapters.from_pretrained(name).load(folders["rfp"])
    assert "loaded on" not in caplog.text


@torch.no_grad()
def test_half_precision_is_mixed_as_exactly(base, folders):
    adapters = MMWFMAdapters.from_pretrained(base, dtype=torch.bfloat16)
    for name in ("csi", "pos"):
        adapters.load(folders[name])
    found = adapters.forward_tasks({name: INPUTS[name] for name in ("csi", "pos")})
    for name in ("csi", "pos"):
        config = AutoConfig.from_pretrained(folders[name])
        model = MMWFMForSequenceClassification.from_pretrained(base, config=config, dtype=torch.bfloat16)
        expected = PeftModel.from_pretrained(model, folders[name]).eval()(**INPUTS[name]).logits
        assert torch.equal(adapters(name, **INPUTS[name]).logits, expected) and expected.dtype == torch.bfloat16
        assert (found[name] - expected).abs().max() <= 2**-6 * expected.abs().max()  # padding changes roundings


@torch.no_grad()
@pytest.mark.parametrize("settings", [{"affine_position": "tokens"}, {"affine_position": "none"}, RELEASED])
def test_other_kinds_of_encoders_are_mixed_as_well(tmp_path, settings):
    model = make(MMWFMModel, **settings)
    model.save_pretrained(tmp_path / "base")
    adapters, expected = MMWFMAdapters(model), {}
    for seed, name in enumerate(("rfp", "both")):
        folder = write_adapter(tmp_path / "base", tmp_path / name, *TASKS[name], seed=seed)
        single = MMWFMForSequenceClassification.from_pretrained(
            tmp_path / "base", config=AutoConfig.from_pretrained(folder)
        )
        expected[name] = PeftModel.from_pretrained(single, folder).eval()(**INPUTS[name]).logits
        adapters.load(folder)
    found = adapters.forward_tasks({name: INPUTS[name] for name in expected})
    assert all(close(found[name], expected[name]) for name in expected)
    assert SMALL["hidden_size"] == adapters.encoder.config.hidden_size
