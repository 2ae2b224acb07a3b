"""The paper's study: models x regimes x tasks x label budgets x seeds, in one HTML report.

    python training_scripts/benchmark.py configuration/recipes/benchmark-smoke.yaml --output_dir runs/benchmark-smoke

Simulates the data sets it is not given, pretrains the presets among the models by one recipe on the same data, runs the
grid and writes results.json and report.html. The same command again goes on where it was.

A model is NAME=FOLDER (a checkpoint, or a preset, which is pretrained first). A task is the NAME of a simulated twin,
NAME:ROWS, or NAME=FOLDER of any labelled data set; its recipe is configuration/tasks/NAME.yaml or, if there is none, that
of the part of NAME before its first dash, or default.yaml.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import yaml
from transformers import AutoConfig, HfArgumentParser

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `processing` is not an installed package

from modeling_mmwfm.benchmark_mmwfm import (
    BenchmarkArguments,
    collect,
    describe_task,
    named,
    plan_cells,
    run_cells,
    summarize,
)
from modeling_mmwfm.benchmark_report_mmwfm import write_benchmark_report
from modeling_mmwfm.cells_mmwfm import Task
from modeling_mmwfm.files_mmwfm import write_json
from modeling_mmwfm.precision_mmwfm import settle_precision
from modeling_mmwfm.pretraining_mmwfm import PretrainingArguments
from modeling_mmwfm.recipes_mmwfm import parse_recipe, read_recipe, run_script
from modeling_mmwfm.step_batches_mmwfm import family_of
from processing.simulate import TASKS, simulate
from training_scripts import pretrain

ROOT = Path(__file__).resolve().parents[1]
OVERRIDES = (
    "num_train_epochs",
    "warmup_epochs",
    "min_steps",
    "batch_size",
    "base_learning_rate",
    "layer_decay",
    "normalization",
    "mixed_precision",
)
# Of the grid, which may grow and shrink; the rest says what a cell is.
GRID = {"output_dir", "models", "tasks", "regimes", "scratch", "label_budgets", "seeds", "num_proc"}


def keep_recipe(arguments: BenchmarkArguments) -> BenchmarkArguments:
    """Finished cells are kept, so they must have been run by this recipe, in the precision that is returned with it."""
    path = Path(arguments.output_dir) / "recipe.json"
    arguments = settle_precision(arguments, path)
    recipe = {name: value for name, value in asdict(arguments).items() if name not in GRID}
    found = json.loads(path.read_text()) if path.is_file() else recipe
    if changed := sorted(name for name in recipe if found.get(name) != recipe[name]):
        raise ValueError(f"expected {arguments.output_dir} to be new or of the same recipe, other: {changed}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, recipe)
    return arguments


def simulate_set(task: str, samples: int | None, arguments: BenchmarkArguments) -> str:
    folder = Path(arguments.output_dir) / "data" / task
    return str(simulate(task, folder, samples, arguments.data_seed, num_proc=os.cpu_count() or 1))


def prepare_models(arguments: BenchmarkArguments) -> dict[str, str]:
    """Name -> checkpoint; presets are pretrained first."""
    checkpoints = {}
    for name, folder in named(arguments.models, "models").items():
        checkpoints[name] = folder
        config = AutoConfig.from_pretrained(folder)
        if config.architectures:
            continue
        if arguments.pretraining is None:
            raise ValueError(f"expected `pretraining`, the recipe by which the preset {folder} is pretrained")
        checkpoints[name] = str(Path(arguments.output_dir) / "models" / name)
        line = [arguments.pretraining, "--model", folder, "--output_dir", checkpoints[name]]
        line += ["--mixed_precision", arguments.mixed_precision]
        recipe = read_recipe(arguments.pretraining)
        if config.model_type != "mmwfm":  # options of our model's
            line += ["--model_options", "", "--attn_implementation", ""]
        for source, task in pretrain.TASKS.items():
            simulated = f"simulated_{source}_samples"
            line += [f"--{simulated}", "0"]
            # Those of the paper always, others where the recipe has them.
            if family_of(source) in config.modalities and (source in ("iq", "image") or recipe.get(simulated)):
                line += [f"--{source}_dataset", simulate_set(task, arguments.pretraining_samples, arguments)]
        print(f"pretraining {name}")
        pretrain.main(*parse_recipe(HfArgumentParser((pretrain.DataArguments, PretrainingArguments)), line))
    return checkpoints


def task_settings(name: str, arguments: BenchmarkArguments) -> dict:
    recipes = [ROOT / "configuration" / "tasks" / f"{part}.yaml" for part in (name, name.split("-")[0], "default")]
    settings = yaml.safe_load(next(path for path in recipes if path.is_file()).read_text())
    return settings | {key: value for key in OVERRIDES if (value := getattr(arguments, key)) is not None}


def prepare_tasks(arguments: BenchmarkArguments) -> dict[str, Task]:
    tasks = {}
    for entry in arguments.tasks:
        name, _, dataset = entry.partition("=")
        if not dataset:
            name, _, rows = entry.partition(":")
            if name not in TASKS or name.startswith("pretrain") or rows and not rows.isdigit():
                raise ValueError(f"`tasks`: expected NAME[:ROWS] of a simulated twin or NAME=FOLDER, found {entry!r}")
            dataset = simulate_set(name, int(rows) if rows else None, arguments)
        tasks[name] = describe_task(name, dataset, task_settings(name, arguments))
    return tasks


def records(table: pd.DataFrame) -> list[dict]:
    """Rows for JSON, which has no NaN: None is all labels, or the spread of one seed."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def main(arguments: BenchmarkArguments):
    output_dir = Path(arguments.output_dir)
    arguments = keep_recipe(arguments)
    models, tasks = prepare_models(arguments), prepare_tasks(arguments)
    cells = plan_cells(models, tasks.values(), arguments)
    run_cells(cells, tasks, models, output_dir, arguments.num_proc)
    numbers = collect(cells, tasks, output_dir)
    summary = summarize(numbers)
    published = yaml.safe_load((ROOT / "configuration" / "published_results.yaml").read_text())
    results = {
        "recipe": asdict(arguments),
        "note": "simulated twins and grouped splits: the published numbers are of other data and of random splits",
        "cells": records(numbers),
        "summary": records(summary),
        "published": published,
    }
    write_json(output_dir / "results.json", results)
    twins = [entry.partition(":")[0] for entry in arguments.tasks if "=" not in entry]
    print(write_benchmark_report(arguments, models, tasks, twins, cells, summary, published))


if __name__ == "__main__":
    run_script(main, BenchmarkArguments)
