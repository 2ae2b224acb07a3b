"""The authors' checkpoints give, converted, what their own code gave (tests/fixtures/golden)."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from modeling_mmwfm import MMWFMForPreTraining, MMWFMForSequenceClassification, MMWFMModel, MMWFMProcessor
from modeling_mmwfm.conversion_mmwfm import convert_checkpoint
from training_scripts.convert_checkpoint import ConversionArguments, main

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "fixtures" / "golden"
FINETUNED = [
    "finetune_image_20class",
    "finetune_image_3channel_lora",
    "finetune_iq_1antenna",
    "finetune_iq_4antenna_meanpool",
]
PRETRAINED = ["pretrain_image", "pretrain_iq_4antenna"]


def arguments(case: str, output_dir: Path, **settings) -> ConversionArguments:
    sizes = json.loads((GOLDEN / f"{case}.json").read_text())
    return ConversionArguments(
        checkpoint=str(GOLDEN / f"{case}.pth"),
        output_dir=str(output_dir),
        num_attention_heads=sizes["num_heads"],
        decoder_num_attention_heads=sizes.get("decoder_num_heads"),
        pooling="mean" if sizes.get("pooling") == "avg" else "cls",
        lora_alpha=(sizes.get("lora") or {}).get("alpha"),
        **settings,
    )


def reference(case: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(model input, the authors' results)"""
    stored = {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(GOLDEN / f"{case}.npz").items()}
    x = stored.pop("x")
    return ({"iq_values": x.transpose(1, 2)} if "_iq_" in case else {"pixel_values": x}), stored


def close(found, expected):
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(found.double(), expected.double(), atol=1e-5, rtol=1e-5)


def test_every_stored_case_is_tested():
    assert sorted(path.stem for path in GOLDEN.glob("*.pth")) == sorted(FINETUNED + PRETRAINED)


@pytest.mark.parametrize("case", FINETUNED)
def test_a_fine_tuned_checkpoint_gives_the_authors_features_and_outputs(case, tmp_path):
    main(arguments(case, tmp_path / "model", head=True))
    model = MMWFMForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    assert (tmp_path / "model" / "adapter").exists() == ("lora" in case)
    inputs, expected = reference(case)
    if "lora" in case:
        base_output = model(**inputs).logits
        model = PeftModel.from_pretrained(model, tmp_path / "model" / "adapter").eval()
        assert (base_output - expected["output"]).abs().max() > 1e-2  # the adapter matters
    with torch.no_grad():
        encoder = model.get_base_model().mmwfm if "lora" in case else model.mmwfm
        assert encoder.config.affine_position == "tokens"
        assert (encoder.config.layer_norm_eps, encoder.config.final_layer_norm_eps) == (1e-6, 1e-6)
        family = "iq" if "iq_values" in inputs else "image"
        tokens = encoder.tokenize(**inputs)[family]
        close(encoder.embeddings_of(family)(tokens), expected["tokens"])
        close(encoder(**inputs).last_hidden_state, expected["hidden"])
        close(model(**inputs).logits, expected["output"])


@pytest.mark.parametrize("case", PRETRAINED)
def test_a_pretraining_checkpoint_gives_the_authors_reconstruction(case, tmp_path):
    main(arguments(case, tmp_path / "model"))
    model = MMWFMForPreTraining.from_pretrained(tmp_path / "model").eval()
    # too small a difference to show in the results to 1e-5
    assert (model.config.layer_norm_eps, model.config.final_layer_norm_eps) == (1e-6, 1e-5)
    inputs, expected = reference(case)
    family = "iq" if "iq_values" in inputs else "image"
    if family == "iq":
        assert expected["time_mask"].all()  # no padding, which the authors' code treats otherwise
    with torch.no_grad():
        output = model(**inputs, **{f"{family}_noise": expected["noise"]})
    assert torch.equal(output[f"{family}_mask"], expected["mask"])
    close(output[f"{family}_logits"], expected["pred"])
    close(output.loss, expected["loss"])


def test_the_script_writes_a_folder_that_opens_with_model_and_processor(tmp_path):
    given = arguments("finetune_iq_4antenna_meanpool", tmp_path / "new" / "model")
    command = [sys.executable, str(ROOT / "training_scripts" / "convert_checkpoint.py"), "--head"]
    command += ["--checkpoint", given.checkpoint, "--output_dir", given.output_dir]
    command += ["--num_attention_heads", "4", "--pooling", "mean"]
    environment = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "MMWFMForSequenceClassification written to" in done.stdout
    model = MMWFMForSequenceClassification.from_pretrained(given.output_dir).eval()
    processor = MMWFMProcessor.from_pretrained(given.output_dir)
    inputs, expected = reference("finetune_iq_4antenna_meanpool")
    x = inputs["iq_values"].transpose(2, 3).numpy()  # as a user gives it: I and Q last; taken as it is
    with torch.no_grad():
        close(model(**processor(iq=np.ascontiguousarray(x))).logits, expected["output"])


def test_without_the_head_the_encoder_alone_is_converted(tmp_path, capsys):
    main(arguments("finetune_image_20class", tmp_path / "model"))
    printed = capsys.readouterr().out.split("not carried over: ")[1]
    # the other family's affine, whose projection the file lacks, has no place either
    assert sorted(printed.split()) == ["head.bias", "head.weight,", "mod_ln_bias.iq,", "mod_ln_scale.iq,"]
    model = MMWFMModel.from_pretrained(tmp_path / "model").eval()
    inputs, expected = reference("finetune_image_20class")
    close(model(**inputs).last_hidden_state, expected["hidden"])


def test_an_adapter_without_the_head_fits_the_encoder(tmp_path):
    main(arguments("finetune_image_3channel_lora", tmp_path / "model"))
    model = MMWFMModel.from_pretrained(tmp_path / "model")
    model = PeftModel.from_pretrained(model, tmp_path / "model" / "adapter").eval()
    inputs, expected = reference("finetune_image_3channel_lora")
    close(model(**inputs).last_hidden_state, expected["hidden"])


def changed(tmp_path: Path, case: str, change) -> Path:
    state = torch.load(GOLDEN / f"{case}.pth", weights_only=True)
    change(state["model"])
    torch.save(state, tmp_path / "changed.pth")
    return tmp_path / "changed.pth"


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda state: state.update({"blocks.0.attn.gate": torch.zeros(1)}), r"found also: blocks\.0\.attn\.gate"),
        (lambda state: state.update({"extra_token": torch.zeros(1)}), "found also: extra_token"),
        (lambda state: state.pop("norm.weight"), r"missing: norm\.weight"),
        (lambda state: state.pop("cls_token"), "missing: cls_token"),
        (lambda state: state.pop("blocks.1.mlp.fc2.bias"), r"missing in .*mmwfm\.layers\.1\.mlp\.fc2\.bias"),
        (lambda state: state.pop("head.bias"), r"missing in .*classifier\.bias"),
        (lambda state: state.pop("iq_segment_embed.weight"), "expected an input projection, missing both"),
        (lambda state: state.pop("iq_ant_embed.weight"), "iq_ant_embed|antenna_embeddings"),
        (
            lambda state: state.update({"norm.bias": torch.zeros(5)}),
            r"shapes differ: expected mmwfm\.norm\.bias \(32,\), found \(5,\)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names_and_shapes_that_do_not_fit_are_named_and_nothing_is_written(change, match, tmp_path):
    given = arguments("finetune_iq_1antenna", tmp_path / "model", head=True)
    given.checkpoint = str(changed(tmp_path, "finetune_iq_1antenna", change))
    with pytest.raises(ValueError, match=match):
        main(given)
    assert [path.name for path in tmp_path.iterdir()] == ["changed.pth"]


def test_unknown_numbers_of_heads_are_asked_for_by_option():
    with pytest.raises(ValueError, match="width 32, depth 2 is not known; expected --num_attention_heads"):
        convert_checkpoint(GOLDEN / "finetune_iq_1antenna.pth")
    with pytest.raises(ValueError, match="width 16, depth 1 is not known; expected --decoder_num_attention_heads"):
        convert_checkpoint(GOLDEN / "pretrain_image.pth", num_attention_heads=4)


def test_a_checkpoint_without_the_affine_has_none(tmp_path):
    def remove(state):
        for key in [key for key in state if key.startswith("mod_ln_")]:
            del state[key]

    path = changed(tmp_path, "finetune_iq_1antenna", remove)
    model, _, _ = convert_checkpoint(path, head=True, num_attention_heads=4)
    assert model.config.affine_position == "none"


def test_files_that_are_no_checkpoint_are_refused(tmp_path):
    (tmp_path / "text.pth").write_text("not a checkpoint")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"model": {"epoch": 3}}, tmp_path / "numbers.pth")
    torch.save({"model": Path("/")}, tmp_path / "object.pth")  # would need code to be run
    torch.save({"model": {}}, tmp_path / "empty.pth")
    for name, match in (
        ("absent.pth", "found nothing at .*absent.pth"),
        ("text.pth", "text.pth cannot be read as one"),
        ("list.pth", "found list"),
        ("numbers.pth", "expected .*state dict"),
        ("object.pth", "object.pth cannot be read as one"),
        ("empty.pth", "missing: cls_token"),
    ):
        with pytest.raises(ValueError, match=match):
            convert_checkpoint(tmp_path / name)


def test_a_folder_with_files_is_not_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="to be absent or empty"):
        main(arguments("finetune_iq_1antenna", tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
