"""Variants of a recipe, pretrained and probed by one command."""

import json

import pytest
import yaml

from modeling_mmwfm.ablation_mmwfm import summarize_probes, write_ablation
from processing.simulate import simulate
from tests.small_sets import tiny_pretraining_model, tiny_processor
from tests.test_recipes import script

RECIPE = {
    "model": "configuration/models/tiny",
    "model_options": {"iq_targets": {"log_spectrum": 1.0}},
    "simulated_iq_samples": 20,
    "simulated_image_samples": 20,
    "normalization": "sample",
    "max_steps": 2,
    "num_train_epochs": 1,
    "warmup_epochs": 0,
    "batch_size": 4,
    "image_height": 32,
    "image_width": 32,
}


def result(value, dataset, seeds=1):
    per_seed = [
        {"linear": {"balanced_accuracy": value + 0.1 * seed}, "knn": {"balanced_accuracy": 0.5}}
        for seed in range(seeds)
    ]
    return {"run": {"dataset": dataset}, "mean": per_seed[0], "per_seed": per_seed}


def test_data_sets_of_one_task_are_averaged_before_the_spread_over_seeds(tmp_path):
    found = {
        "pretrained": [result(0.9, "data/a"), result(0.7, "data/b")],
        "random": [result(0.4, "data/a", 3), result(0.6, "data/b", 3)],
    }
    rows = summarize_probes("v", "csi", found)
    linear = {row["encoder"]: row for row in rows if row["probe"] == "linear"}
    assert linear["pretrained"]["value"] == pytest.approx(0.8) and linear["pretrained"]["std"] is None
    assert linear["random"]["value"] == pytest.approx(0.6) and linear["random"]["std"] == pytest.approx(0.1)
    assert linear["pretrained"]["by_dataset"] == {"a": pytest.approx(0.9), "b": pytest.approx(0.7)}
    text = write_ablation(rows, tmp_path).read_text()
    assert "| v | linear | 0.800 (0.600 ± 0.100) |" in text


def test_variants_differ_in_what_they_name_and_share_the_rest(tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    rfp = simulate("rfp", tmp_path / "rfp", 120)
    ablation = script("ablation")
    arguments = ablation.AblationArguments(
        output_dir=str(tmp_path / "run"),
        pretraining=str(tmp_path / "recipe.yaml"),
        variants=json.dumps(
            {"log-spectrum": {}, "segment-64": {"model_options": {"segment_length": 64}, "simulated_image_samples": 0}}
        ),
        probes=json.dumps({"rfp": {"dataset": str(rfp)}}),
        common=json.dumps({"max_steps": 3}),
        seeds=[0, 1],
    )
    ablation.main(arguments)
    configs = {
        name: json.loads((tmp_path / "run" / "models" / name / "config.json").read_text())
        for name in ("log-spectrum", "segment-64")
    }
    assert [config["segment_length"] for config in configs.values()] == [16, 64]
    assert all(config["iq_targets"] == {"log_spectrum": 1.0} for config in configs.values())
    logs = {
        name: json.loads((tmp_path / "run" / "models" / name / "training_log.json").read_text())[-1]
        for name in configs
    }
    assert all(log["step"] == 3 for log in logs.values())
    assert "image_loss" in logs["log-spectrum"] and "image_loss" not in logs["segment-64"]
    rows = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {(row["variant"], row["encoder"], row["probe"]) for row in rows} == {
        (variant, encoder, kind)
        for variant in configs
        for encoder in ("pretrained", "random")
        for kind in ("linear", "knn")
    }
    assert all(0 <= row["value"] <= 1 for row in rows)
    # The same command again finds everything done.
    before = (tmp_path / "run" / "models" / "segment-64" / "model.safetensors").stat().st_mtime_ns
    ablation.main(arguments)
    assert (tmp_path / "run" / "models" / "segment-64" / "model.safetensors").stat().st_mtime_ns == before


def test_a_checkpoint_is_probed_as_it_is_and_so_are_random_weights_in_each_view(tmp_path):
    tiny_pretraining_model().save_pretrained(tmp_path / "tiny")
    tiny_processor().save_pretrained(tmp_path / "tiny")
    interference = simulate("interference", tmp_path / "interference", 60)
    arguments = script("ablation").AblationArguments(
        output_dir=str(tmp_path / "run"),
        variants=json.dumps({"tiny": {"checkpoint": str(tmp_path / "tiny")}}),
        probes=json.dumps(
            {
                pooling: {"dataset": str(interference), "pooling": pooling, "normalization": "sample"}
                for pooling in ("cls", "mean_std")
            }
        ),
        seeds=[0],
    )
    script("ablation").main(arguments)
    assert not (tmp_path / "run" / "models").exists()
    widths = {
        (pooling, encoder): json.loads(path.read_text())["num_features"]
        for pooling in ("cls", "mean_std")
        for encoder in ("pretrained", "random")
        for path in (tmp_path / "run" / "probes" / "tiny" / pooling / encoder).rglob("probe_results.json")
    }
    assert widths == {
        (pooling, encoder): width
        for pooling, width in (("cls", 64), ("mean_std", 128))
        for encoder in ("pretrained", "random")
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "expected a `checkpoint` or `pretraining`"),
        ({"checkpoint": "x", "seed": 1}, "expected `checkpoint` alone"),
    ],
)
def test_a_variant_without_a_recipe_is_a_checkpoint_alone(changes, message, tmp_path):
    arguments = script("ablation").AblationArguments(
        output_dir=str(tmp_path), variants=json.dumps({"v": changes}), probes="{}"
    )
    with pytest.raises(ValueError, match=message):
        script("ablation").main(arguments)


def test_what_is_not_a_mapping_is_refused(tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    arguments = script("ablation").AblationArguments(
        output_dir=str(tmp_path), pretraining=str(tmp_path / "recipe.yaml"), variants="[1]", probes="{}"
    )
    with pytest.raises(ValueError, match="`variants`: expected a mapping"):
        script("ablation").main(arguments)
