"""Recipes and command lines."""

import ast
import importlib.util
from pathlib import Path

import pytest
import yaml
from transformers import HfArgumentParser

from modeling_mmwfm import MMWFMConfig
from modeling_mmwfm.benchmark_mmwfm import BenchmarkArguments, named, read_budgets
from modeling_mmwfm.finetuning_mmwfm import FinetuningArguments
from modeling_mmwfm.inputs_mmwfm import InputArguments, TaskArguments
from modeling_mmwfm.pretraining_mmwfm import PretrainingArguments
from modeling_mmwfm.probing_mmwfm import ProbeArguments
from modeling_mmwfm.recipes_mmwfm import as_line, parse_recipe, read_json
from processing.simulate import TASKS

ROOT = Path(__file__).parents[1]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "training_scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "recipe", sorted((ROOT / "configuration" / "recipes").glob("pretrain-*.yaml")), ids=lambda p: p.stem
)
def test_every_pretraining_recipe_is_understood(recipe):
    parser = HfArgumentParser((script("pretrain").DataArguments, PretrainingArguments))
    data, arguments = parse_recipe(parser, [str(recipe), "--output_dir", "x", "--seed", "7"])
    content = yaml.safe_load(recipe.read_text())
    assert arguments.seed == 7 and data.model == content["model"]
    assert arguments.num_train_epochs == content["num_train_epochs"] and arguments.mixed_precision == "auto"
    assert (ROOT / data.model / "config.json").is_file()


@pytest.mark.parametrize("recipe", sorted((ROOT / "configuration" / "tasks").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_task_recipe_is_understood(recipe):
    parser = HfArgumentParser((script("finetune").TaskArguments, InputArguments, FinetuningArguments))
    line = [str(recipe), "--output_dir", "x", "--model", "m", "--dataset", "d", "--regime", "ft2"]
    _, _, arguments = parse_recipe(parser, line)
    assert arguments.regime == "ft2" and arguments.mixed_precision == "auto"
    assert arguments.label_smoothing == yaml.safe_load(recipe.read_text())["label_smoothing"]


@pytest.mark.parametrize(
    "recipe", sorted((ROOT / "configuration" / "recipes").glob("benchmark-*.yaml")), ids=lambda p: p.stem
)
def test_every_benchmark_recipe_is_understood(recipe):
    (arguments,) = parse_recipe(HfArgumentParser(BenchmarkArguments), [str(recipe), "--output_dir", "x"])
    folders = list(named(arguments.models, "models").values())
    assert all((ROOT / folder / "config.json").is_file() for folder in folders)
    if any(folder.startswith("configuration") for folder in folders):  # presets, which are pretrained first
        assert (ROOT / arguments.pretraining).is_file()
    assert arguments.mixed_precision == "auto"
    names = [entry.partition("=")[0].partition(":")[0] for entry in arguments.tasks]
    assert len(set(names)) == len(names) and read_budgets(arguments.label_budgets)
    assert all("=" in entry or name in TASKS for entry, name in zip(arguments.tasks, names))


@pytest.mark.parametrize(
    "recipe", sorted((ROOT / "configuration" / "recipes").glob("ablation-*.yaml")), ids=lambda p: p.stem
)
def test_every_variant_and_probe_of_an_ablation_is_understood(recipe):
    ablation, content = script("ablation"), yaml.safe_load(recipe.read_text())
    base = yaml.safe_load((ROOT / content["pretraining"]).read_text()) if "pretraining" in content else None
    parser = HfArgumentParser((ablation.pretrain.DataArguments, PretrainingArguments))
    known = set(MMWFMConfig().to_dict())  # options that it does not know would be carried along and change nothing
    for variant, changes in content["variants"].items():
        if "checkpoint" in changes:
            assert (ROOT / changes["checkpoint"] / "config.json").is_file()
            continue
        line = as_line(ablation.vary(base, content["common"], changes))
        data, arguments = parser.parse_args_into_dataclasses([*line, "--output_dir", "x"])
        assert arguments.max_steps == changes.get("max_steps", content["common"]["max_steps"]), variant
        assert set(read_json(data.model_options, "model_options")) <= known, variant
    for name, settings in content["probes"].items():
        settings = {key: value for key, value in settings.items() if key != "datasets"} | {"dataset": "d"}
        line = as_line({**settings, "model": "m", "output_dir": "x"})
        task, *_ = HfArgumentParser((TaskArguments, InputArguments, ProbeArguments)).parse_args_into_dataclasses(line)
        assert task.dataset == "d", name


def test_unknown_keys_and_missing_recipes_are_refused(tmp_path):
    parser = HfArgumentParser(PretrainingArguments)
    (tmp_path / "bad.yaml").write_text("output_dir: x\nbatch_sise: 3\n")
    with pytest.raises(ValueError, match="batch_sise"):
        parse_recipe(parser, [str(tmp_path / "bad.yaml")])
    with pytest.raises(ValueError, match="found no file"):
        parse_recipe(parser, [str(tmp_path / "none.yaml")])
    with pytest.raises(ValueError, match="batch_sise|not used"):
        parse_recipe(parser, ["--output_dir", "x", "--batch_sise", "3"])


@pytest.mark.parametrize("path", sorted((ROOT / "training_scripts").glob("*.py")), ids=lambda p: p.stem)
def test_scripts_are_thin(path):
    tree = ast.parse(path.read_text())
    assert len(path.read_text().splitlines()) <= 150
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            assert [getattr(d, "id", None) for d in node.decorator_list] == ["dataclass"], node.name


def test_the_package_is_flat_and_modules_keep_to_their_size():
    limits = {"configuration_mmwfm.py": 120, "modeling_mmwfm.py": 700}
    for path in (ROOT / "modeling_mmwfm").iterdir():
        assert path.suffix == ".py" or path.name == "__pycache__", path
        if path.is_file():
            assert len(path.read_text().splitlines()) <= limits.get(path.name, 350), path
