"""The paper's study as a grid of cells: models x regimes x tasks x label budgets x seeds. A finished cell is kept."""

import contextlib
import itertools
import json
import multiprocessing
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm
from transformers import AutoConfig
from transformers.utils import logging

from .baselines_mmwfm import fit_baseline, measure_splits
from .cells_mmwfm import (
    HAND_FEATURES,
    LINEAR,
    PREDICTIONS_FILE,
    RANDOM_ENCODER,
    Cell,
    Task,
    cell_folder,
    prepare_inputs,
    run_cell,
    run_probes,
)
from .data_collator_mmwfm import FAMILIES, INPUT_COLUMNS, load_splits
from .evaluation_mmwfm import RESULTS_FILE
from .metrics_mmwfm import interference_report
from .precision_mmwfm import PRECISION

MIN_POSITIONS = 10  # of a label budget: a box of coordinates needs some


@dataclass
class BenchmarkArguments:
    """What to compare. Models and tasks are written NAME=..., see `training_scripts/benchmark.py`."""

    output_dir: str = field(metadata={"help": "folder of data, models, cells, results.json and report.html"})
    models: list[str] = field(
        metadata={
            "help": "NAME=FOLDER of each model, the multimodal one first: a checkpoint (folder or Hub name), or a "
            "preset, which is pretrained first"
        }
    )
    tasks: list[str] = field(
        metadata={"help": "simulated twins NAME or NAME:ROWS, or any labelled data set NAME=FOLDER"}
    )
    pretraining: str | None = field(default=None, metadata={"help": "recipe by which presets are pretrained"})
    pretraining_samples: int = field(default=3200, metadata={"help": "simulated rows of each family to pretrain on"})
    regimes: list[str] = field(default_factory=lambda: ["probe", "lp", "ft2", "lora"])
    scratch: bool = field(default=True, metadata={"help": "also train the first model's encoder from scratch"})
    label_budgets: list[str] = field(
        default_factory=lambda: ["1", "5", "10", "50", "500", "all"], metadata={"help": "training rows per class"}
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    data_seed: int = field(default=0, metadata={"help": "of the simulated sets"})
    num_proc: int = field(default=1, metadata={"help": "cells that run at the same time"})
    mixed_precision: str = field(default="auto", metadata=PRECISION)
    # What the tasks' own recipes say, unless given here.
    num_train_epochs: int | None = None
    warmup_epochs: float | None = None
    min_steps: int | None = None
    batch_size: int | None = None
    base_learning_rate: float | None = None
    layer_decay: float | None = None
    normalization: str | None = field(
        default=None,
        metadata={
            "choices": ["dataset", "sample", "none"],
            "help": "of the input of every model, best as in pretraining",
        },
    )


def named(entries: list[str], what: str) -> dict[str, str]:
    """["name=value", ...] -> {name: value}."""
    pairs = [entry.split("=", 1) for entry in entries]
    if bad := [entry for entry, pair in zip(entries, pairs) if len(pair) != 2 or not all(pair)]:
        raise ValueError(f"`{what}`: expected NAME=VALUE, found {bad}")
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError(f"`{what}`: expected each name once, found {[name for name, _ in pairs]}")
    return found


def read_budgets(budgets: list[str]) -> list[int | None]:
    """["1", "5", "all"] -> [1, 5, None]."""
    if bad := [budget for budget in budgets if budget != "all" and not (budget.isdigit() and int(budget))]:
        raise ValueError(f"`label_budgets`: expected numbers of rows or 'all', found {bad}")
    return [None if budget == "all" else int(budget) for budget in budgets]


def describe_task(name: str, dataset: str, settings: dict) -> Task:
    """Read what the grid needs to know of a labelled data set.

    Raises:
        ValueError: no test split or no target.
    """
    splits = load_splits(dataset)
    if missing := {"train", "validation", "test"} - set(splits):
        raise ValueError(
            f"{dataset}: expected splits train, validation and test, found no {', '.join(sorted(missing))}"
        )
    train = splits["train"]
    families = tuple(dict.fromkeys(FAMILIES[column] for column in INPUT_COLUMNS if column in train.column_names))
    regression = "position" in train.column_names
    if not regression and "label" not in train.column_names:
        raise ValueError(f"{dataset}: expected a column `label` or `position`, found {train.column_names}")
    rows = len(train) if regression else int(np.bincount(np.asarray(train["label"][:])).max())
    return Task(name, str(dataset), families, regression, rows, settings)


def plan_cells(models: dict[str, str], tasks: Iterable[Task], arguments: BenchmarkArguments) -> list[Cell]:
    """All cells, those of a task together.

    A model stands where it takes the task's input. Budgets that no class exceeds would repeat "all" and are left out,
    for positions also those below ten. From scratch and the random encoder are those of the first model.
    """
    families = {name: families_of(folder) for name, folder in models.items()}
    first, cells = next(iter(models)), []
    for task in tasks:
        budgets = [
            budget
            for budget in read_budgets(arguments.label_budgets)
            if budget is None or budget < task.rows_of_class and not (task.regression and budget < MIN_POSITIONS)
        ]
        entrants = [
            (model, regime)
            for model in [name for name in models if set(task.families) <= set(families[name])] + [RANDOM_ENCODER]
            for regime in arguments.regimes
        ]
        if arguments.scratch:
            entrants.append((first, "scratch"))
        entrants.append((HAND_FEATURES, "linear"))
        cells += [
            Cell(task.name, model, regime, budget, seed)
            for model, regime in entrants
            for budget in budgets
            for seed in arguments.seeds
        ]
    return cells


def families_of(model: str) -> tuple[str, ...]:
    return tuple(AutoConfig.from_pretrained(model).modalities)


def run_quietly(num_threads: int, function, *job) -> None:
    """A function in a process of its own, which leaves the terminal to the progress bar of the grid."""
    torch.set_num_threads(num_threads)
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        function(*job)


def end_with_parent() -> None:
    """The processes of a pool outlive a parent that is killed, and would write beside those of the next run."""

    def wait_and_end():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait_and_end, daemon=True).start()


def run_cells(cells: list[Cell], tasks: dict[str, Task], models: dict[str, str], output_dir: Path, num_proc: int):
    """Run what is not finished, `num_proc` cells at a time; interrupted, the same call goes on.

    Raises:
        ValueError: a cell could not be run; the others that had begun are finished.
    """
    waiting = [cell for cell in cells if not (cell_folder(output_dir, cell) / RESULTS_FILE).is_file()]
    bar = tqdm(total=len(cells), initial=len(cells) - len(waiting), desc="cells", unit="cell")
    for task, group in itertools.groupby([c for c in waiting if c.model == HAND_FEATURES], lambda cell: cell.task):
        splits = load_splits(tasks[task].dataset)
        features = measure_splits(splits, tasks[task].settings.get("carrier_shift", 0.0))
        for cell in group:
            fit_baseline(LINEAR, splits, features, cell.samples_per_class, cell.seed, cell_folder(output_dir, cell))
            bar.update()
    first, jobs, probes = next(iter(models)), [], {}
    for cell in waiting:
        if cell.model != HAND_FEATURES:
            name = first if cell.model == RANDOM_ENCODER else cell.model
            task = tasks[cell.task]
            processor = prepare_inputs(task, models[name], output_dir / "processors" / f"{task.name}-{name}")
            if cell.regime == "probe":  # of one encoder together
                weights = cell.seed if cell.model == RANDOM_ENCODER else None
                probes.setdefault((cell.task, cell.model, weights), []).append(cell)
            else:
                job = run_cell, cell, task, models[name], processor, cell_folder(output_dir, cell)
                jobs.append(([cell], job))
    for (task, model, _), group in probes.items():
        name = first if model == RANDOM_ENCODER else model
        processor = output_dir / "processors" / f"{task}-{name}"
        jobs.insert(0, (group, (run_probes, group, tasks[task], models[name], processor, output_dir)))
    num_threads = max(1, (os.cpu_count() or 1) // num_proc)
    # Spawned, not forked: a process made by fork cannot use the OpenMP threads or the GPU of its parent.
    pool = ProcessPoolExecutor(num_proc, multiprocessing.get_context("spawn"), initializer=end_with_parent)
    try:
        running = {pool.submit(run_quietly, num_threads, *job): group for group, job in jobs}
        for future in as_completed(running):
            try:
                future.result()
            except (ValueError, OSError) as error:
                raise ValueError(f"cell {running[future][0].name}: {error}") from error
            bar.update(len(running[future]))
    finally:
        pool.shutdown(cancel_futures=True)
    bar.close()


def collect(cells: list[Cell], tasks: dict[str, Task], output_dir: Path) -> pd.DataFrame:
    """One row for each number of a cell: its fields, `column` of the tables, `value`, `unit` ("%" or "m").

    Interference has two columns, INTD and INTC, read from one head of three classes.
    """
    rows = []
    for cell in cells:
        folder = cell_folder(output_dir, cell)
        result = json.loads((folder / RESULTS_FILE).read_text())["test"]
        if cell.task == "interference":
            predictions = np.load(folder / PREDICTIONS_FILE)
            report = interference_report(predictions["logits"], predictions["labels"])
            numbers = {"INTD": report["intd_accuracy"], "INTC": report["intc_accuracy"]}
        elif tasks[cell.task].regression:
            numbers = {column_of(cell.task): result["mean_error_m"]}
        else:
            numbers = {column_of(cell.task): result["mean_class_accuracy"]}
        unit = "m" if tasks[cell.task].regression else "%"
        for column, value in numbers.items():
            value = value if unit == "m" else 100 * value
            rows.append({**asdict(cell), "column": column, "value": value, "unit": unit})
    return pd.DataFrame(rows)


def column_of(task: str) -> str:
    """Heading of a task in the tables: the paper's abbreviation, or the data set's name."""
    return {"rfp": "RFP", "has": "HAS", "rfs": "RFS", "pos-indoor": "POS indoor", "pos-outdoor": "POS outdoor"}.get(
        task, task
    )


def summarize(numbers: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation and number of seeds of every (column, model, regime, samples_per_class)."""
    keys = ["task", "column", "unit", "model", "regime", "samples_per_class"]
    summary = numbers.groupby(keys, dropna=False, sort=False)["value"].agg(["mean", "std", "count"])
    return summary.rename(columns={"count": "seeds"}).reset_index()
