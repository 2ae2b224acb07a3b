"""Vary a pretraining recipe and probe what the frozen features hold, beside random weights with the same front end.

    python training_scripts/ablation.py configuration/recipes/ablation-cpu.yaml --output_dir runs/ablation

Simulates the pretraining data once, pretrains each variant, and fits a linear probe and nearest neighbours on every data
set. A variant that is a `checkpoint` is probed as it is: so views are varied, each a probe of its own. The same command
again goes on where it was; results.json and table.md are written after every variant.
"""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `processing` is not an installed package

from modeling_mmwfm.ablation_mmwfm import summarize_probes, write_ablation
from modeling_mmwfm.inputs_mmwfm import InputArguments, TaskArguments
from modeling_mmwfm.pretraining_mmwfm import PretrainingArguments
from modeling_mmwfm.probing_mmwfm import ProbeArguments
from modeling_mmwfm.recipes_mmwfm import as_line, read_json, read_recipe, run_script
from processing.simulate import simulate
from training_scripts import pretrain, probe


@dataclass
class AblationArguments:
    output_dir: str = field(metadata={"help": "folder of data, models, probes, results.json and table.md"})
    variants: str = field(
        metadata={
            "help": "JSON, name -> keys of the recipe that differ; `model_options` are added to the recipe's. Or "
            "`checkpoint` alone: a folder or Hub name, pretrained already"
        }
    )
    probes: str = field(
        metadata={"help": "JSON, name -> keys of probe.py; of several `datasets` the mean is taken over them"}
    )
    pretraining: str | None = field(default=None, metadata={"help": "recipe that is varied"})
    common: str | None = field(default=None, metadata={"help": "JSON, keys of the recipe that all variants share"})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "of the random encoders"})


def vary(recipe: dict, *changes: dict) -> dict:
    for change in changes:
        options = {**(recipe.get("model_options") or {}), **change.get("model_options", {})}
        recipe = {**recipe, **change, "model_options": options}
    return recipe


def pretrain_variant(recipe: dict, output_dir: Path, folder: Path):
    recipe = dict(recipe)
    for source, task in pretrain.TASKS.items():
        if samples := recipe.pop(f"simulated_{source}_samples", 0):
            data = simulate(task, output_dir / "data" / f"{task}-{samples}", samples, num_proc=os.cpu_count() or 1)
            recipe[f"{source}_dataset"] = str(data)
    parser = HfArgumentParser((pretrain.DataArguments, PretrainingArguments))
    pretrain.main(*parser.parse_args_into_dataclasses([*as_line(recipe), "--output_dir", str(folder)]))


def probe_variant(model: Path | str, settings: dict, folder: Path, seeds: list[int]) -> dict:
    """Pretrained and random, of every data set."""
    settings, parser = dict(settings), HfArgumentParser((TaskArguments, InputArguments, ProbeArguments))
    datasets, found = settings.pop("datasets", None) or [settings.pop("dataset")], {}
    for encoder, fresh in (("pretrained", False), ("random", True)):
        found[encoder] = []
        for dataset in datasets:
            line = {**settings, "model": model, "dataset": dataset, "random_encoder": fresh, "seeds": seeds}
            line["output_dir"] = folder / encoder / Path(dataset).name
            found[encoder].append(probe.main(*parser.parse_args_into_dataclasses(as_line(line))))
    return found


def main(arguments: AblationArguments):
    output_dir = Path(arguments.output_dir)
    base = read_recipe(arguments.pretraining) if arguments.pretraining else None
    variants, probes = (read_json(getattr(arguments, name), name) for name in ("variants", "probes"))
    rows = []
    for variant, changes in variants.items():
        if (model := changes.get("checkpoint")) is None:
            if base is None:
                raise ValueError(f"variant {variant!r}: expected a `checkpoint` or `pretraining`, found neither")
            model = output_dir / "models" / variant
            recipe = vary(base, read_json(arguments.common or "{}", "common"), changes)
            pretrain_variant(recipe, output_dir, model)
        elif len(changes) > 1:
            raise ValueError(f"variant {variant!r}: expected `checkpoint` alone, found {sorted(changes)}")
        for name, settings in probes.items():
            found = probe_variant(model, settings, output_dir / "probes" / variant / name, arguments.seeds)
            rows += summarize_probes(variant, name, found)
        print(write_ablation(rows, output_dir))


if __name__ == "__main__":
    run_script(main, AblationArguments)
