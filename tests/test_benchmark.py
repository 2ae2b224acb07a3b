"""The benchmark: its grid, its tables, and a whole small run through the command line."""

import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from modeling_mmwfm import (
    IQFMConfig,
    IQFMForPreTraining,
    MMWFMConfig,
    MMWFMForPreTraining,
    MMWFMProcessor,
    benchmark_mmwfm,
    cells_mmwfm,
    precision_mmwfm,
)
from modeling_mmwfm.benchmark_mmwfm import (
    BenchmarkArguments,
    collect,
    describe_task,
    named,
    plan_cells,
    read_budgets,
    run_cells,
    summarize,
)
from modeling_mmwfm.benchmark_report_mmwfm import at_budget, control_table, make_table, paper_tables
from modeling_mmwfm.cells_mmwfm import HAND_FEATURES, RANDOM_ENCODER, Task, take_views
from modeling_mmwfm.data_collator_mmwfm import load_splits
from modeling_mmwfm.finetuning_mmwfm import FinetuningArguments, finetune
from tests.measured_sets import clean_recording
from tests.small_sets import image_rows, tiny_processor, tone_rows
from tests.test_recipes import script

ROOT = Path(__file__).parents[1]
PRESETS = ROOT / "configuration" / "models"


def arguments(**changes):
    settings = dict(output_dir="x", models=[], tasks=[], label_budgets=["5", "500", "all"], seeds=[0, 1])
    return BenchmarkArguments(**{**settings, **changes})


def task(name, family, regression=False, rows=100):
    return Task(name, name, (family,), regression, rows, {})


def test_names_and_budgets_are_read_and_wrong_ones_refused():
    assert named(["a=x", "b=y=z"], "models") == {"a": "x", "b": "y=z"}
    assert read_budgets(["1", "all"]) == [1, None]
    for wrong in (["a"], ["=x"], ["a=x", "a=y"]):
        with pytest.raises(ValueError, match="`models`"):
            named(wrong, "models")
    for wrong in (["0"], ["-1"], ["half"]):
        with pytest.raises(ValueError, match="`label_budgets`"):
            read_budgets(wrong)


def test_the_grid_holds_each_model_where_it_takes_the_input_and_the_controls_everywhere():
    models = {"mmwfm": str(PRESETS / "tiny"), "wavesfm": str(PRESETS / "wavesfm-tiny")}
    tasks = [task("rfp", "iq"), task("pos-indoor", "image", regression=True, rows=700)]
    cells = plan_cells(models, tasks, arguments())
    entrants = {(cell.task, cell.model, cell.regime) for cell in cells}
    assert ("rfp", "mmwfm", "lora") in entrants and ("pos-indoor", "wavesfm", "lp") in entrants
    assert not any(name == "rfp" and model == "wavesfm" for name, model, _ in entrants)
    for name in ("rfp", "pos-indoor"):
        assert {(name, RANDOM_ENCODER, "ft2"), (name, "mmwfm", "scratch"), (name, HAND_FEATURES, "linear")} <= entrants
    # 500 rows of a class are more than rfp has; 5 positions say nothing of a box
    assert {cell.samples_per_class for cell in cells if cell.task == "rfp"} == {5, None}
    assert {cell.samples_per_class for cell in cells if cell.task == "pos-indoor"} == {500, None}
    assert len({cell.name for cell in cells}) == len(cells)
    assert {cell.seed for cell in cells} == {0, 1}


def numbers(values: dict, unit="%", budget=None):
    rows = [
        {"task": "t", "column": column, "unit": unit, "model": model, "regime": regime, "value": value, "seed": seed}
        | {"samples_per_class": budget}
        for (column, model, regime), series in values.items()
        for seed, value in enumerate(series)
    ]
    return pd.DataFrame(rows)


def test_a_table_gives_mean_and_spread_and_marks_the_best_and_the_published():
    summary = summarize(numbers({("RFP", "mmwfm", "lp"): [80.0, 90.0], ("RFP", RANDOM_ENCODER, "lp"): [60.0, 62.0]}))
    published = {"source": "P", "columns": ["RFP"], "rows": [{"model": "M", "regime": "lp", "values": [98.65]}]}
    table = make_table("II", summary, [("mmwfm", "lp"), (RANDOM_ENCODER, "lp"), ("absent", "lp")], published)
    texts = [[cell["text"] for cell in row["cells"]] for row in table["rows"]]
    assert texts == [["85.0 ± 7.1"], ["61.0 ± 1.4"], ["98.65"]]
    assert [row["cells"][0]["best"] for row in table["rows"]] == [True, False, False]
    assert table["rows"][-1]["published"] and "cannot be compared" in table["note"]


def test_of_positions_the_smaller_error_is_the_better_one():
    summary = summarize(numbers({("POS", "a", "lp"): [1.0, 1.2], ("POS", "b", "lp"): [3.0, 3.2]}, unit="m"))
    rows = make_table("", summary, [("a", "lp"), ("b", "lp")], None)["rows"]
    assert [row["cells"][0]["best"] for row in rows] == [True, False]


def test_a_gain_within_the_spread_is_not_claimed():
    values = {("A", "m", "lp"): [70, 80], ("A", RANDOM_ENCODER, "lp"): [69, 79]}
    values |= {("B", "m", "lp"): [90, 91], ("B", RANDOM_ENCODER, "lp"): [50, 51]}
    small, large = control_table(summarize(numbers(values)), "m", ["lp"])["rows"][0]["cells"]
    assert small["text"] == "+1.0 (within the spread)" and not small["best"]
    assert large["text"] == "+40.0" and large["best"]
    metres = {("P", "m", "lp"): [2.0, 2.1], ("P", RANDOM_ENCODER, "lp"): [5.0, 5.1]}
    cell = control_table(summarize(numbers(metres, unit="m")), "m", ["lp"])["rows"][0]["cells"][0]
    assert cell["text"] == "+3.00" and cell["best"]


def test_tables_are_of_one_label_budget():
    few = numbers({("RFP", "mmwfm", "lp"): [10.0, 11.0]}, budget=5)
    many = numbers({("RFP", "mmwfm", "lp"): [80.0, 81.0]}, budget=None)
    summary = summarize(pd.concat([few, many]))
    for budget, text in ((None, "80.5 ± 0.7"), (5, "10.5 ± 0.7")):
        table = paper_tables(at_budget(summary, budget), ["mmwfm"], ["lp"], None)[0]
        assert table["rows"][0]["cells"][0]["text"] == text


def test_images_resized_once_give_the_model_the_same_input():
    rows, processor = image_rows(6, "train", 0), tiny_processor()
    processor.image_processor.size = {"height": 48, "width": 16}
    processor.image_processor.normalization = "dataset"
    processor.fit(rows)
    seen, rest = take_views({"train": rows}, processor)
    resized = seen["train"]
    assert resized.features["image"].shape == (1, 48, 16)
    before, after = (
        own(images=part["image"][:])["pixel_values"] for own, part in ((processor, rows), (rest, resized))
    )
    torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-5)


def test_a_cleaned_recording_keeps_its_carrier_and_loses_spurs_and_dc():
    rate_hz, count = 250e3, 32768
    time_s, rng = np.arange(count) / rate_hz, np.random.default_rng(1)
    noise = 0.05 * (rng.standard_normal(count) + 1j * rng.standard_normal(count))
    keying = np.repeat(rng.integers(0, 2, count // 64), 64)  # on-off keying: a carrier with side bands
    signal = keying * np.exp(2j * np.pi * 40e3 * time_s) + 0.5 + 0.5 * np.exp(-2j * np.pi * 60e3 * time_s) + noise
    cleaned = clean_recording(signal.astype(np.complex64), rate_hz, rng)
    frequency_hz = np.fft.fftfreq(count, 1 / rate_hz)
    before, after = (np.abs(np.fft.fft(part)) ** 2 for part in (signal, cleaned))
    assert abs(frequency_hz[after.argmax()]) < 4e3 / 2  # the carrier, to the width of the smoothing
    # the DC line lay 40 kHz below the carrier, the spur 100 kHz below
    for distance_hz in (-40e3, -100e3):
        near = np.abs(frequency_hz - distance_hz - frequency_hz[after.argmax()]) < 500
        assert after[near].max() < 1e-2 * before.max()
    far = np.abs(frequency_hz) > 60e3
    assert after[far].mean() == pytest.approx(np.median(before) / np.log(2), rel=0.1)


def write_splits(folder, rows, counts=(("train", 24), ("validation", 8), ("test", 12))):
    for seed, (split, count) in enumerate(counts):
        (folder / split).mkdir(parents=True)
        rows(count, split, seed).to_parquet(folder / split / f"{split}.parquet")
    return folder


def test_a_small_study_runs_from_the_command_line_and_goes_on_where_it_was(tmp_path):
    torch.manual_seed(0)
    model = MMWFMForPreTraining(MMWFMConfig.from_pretrained(PRESETS / "tiny"))
    model.save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    tones = write_splits(tmp_path / "tones", tone_rows)
    places = write_splits(tmp_path / "places", image_rows)
    output = tmp_path / "benchmark"
    line = f"--output_dir {output} --models mmwfm={tmp_path / 'model'} --tasks tones={tones} places={places} "
    line += "--regimes lora --label_budgets 10 all --seeds 0 1 --num_train_epochs 2 --warmup_epochs 0 --batch_size 8 "
    line += "--base_learning_rate 0.05 --layer_decay 1.0 --num_proc 2"
    command = [sys.executable, str(ROOT / "training_scripts" / "benchmark.py"), *line.split()]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr[-3000:]
    results = json.loads((output / "results.json").read_text())
    # pretrained and random encoder, from scratch and hand features, at 2 budgets and 2 seeds, of 2 tasks
    assert len(results["cells"]) == (2 + 1 + 1) * 2 * 2 * 2
    assert all(np.isfinite(cell["value"]) for cell in results["cells"])
    assert {cell["samples_per_class"] for cell in results["cells"]} == {10, None}
    assert {row["seeds"] for row in results["summary"]} == {2}
    hand = [c["value"] for c in results["cells"] if c["model"] == HAND_FEATURES and c["column"] == "tones"]
    assert min(hand) > 90  # a tone above or below 0 Hz
    page = (output / "report.html").read_text()
    for heading in ("Table III", "What pretraining brings", "Label efficiency", "Confusion", "t-SNE"):
        assert heading in page, heading
    assert not list((output / "cells").rglob("*.safetensors"))
    # in the precision that `auto` chose, which cells that are run again take whatever is measured then
    taken = json.loads((output / "recipe.json").read_text())["mixed_precision"]
    assert taken in ("no", "bf16") and results["recipe"]["mixed_precision"] == taken
    runs = [json.loads(path.read_text()) for path in output.rglob("run.json")]
    assert runs and {run["mixed_precision"] for run in runs} == {taken}
    # one lost cell is run again, the others are not
    cells = sorted(output.rglob("test_results.json"))
    stamps = {path: path.stat().st_mtime_ns for path in cells}
    cells[0].unlink()
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr[-3000:]
    changed = [path for path in cells if path.stat().st_mtime_ns != stamps[path]]
    assert changed == [cells[0]]
    # the same without "all": what shows one label budget shows the largest
    run = subprocess.run([*command, "--label_budgets", "10"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr[-3000:]
    page = (output / "report.html").read_text()
    assert "Table III: LoRA (other data sets, 10 labels per class)" in page and "Confusion" in page
    run = subprocess.run([*command, "--normalization", "sample"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode != 0 and "new or of the same recipe, other: ['normalization']" in run.stderr


def test_fitted_heads_take_the_features_of_each_encoder_once_for_all_budgets_and_seeds(tmp_path, monkeypatch):
    model = tmp_path / "model"
    torch.manual_seed(0)
    MMWFMForPreTraining(MMWFMConfig.from_pretrained(PRESETS / "tiny")).save_pretrained(model)
    tiny_processor().save_pretrained(model)
    torch.manual_seed(0)
    IQFMForPreTraining(
        IQFMConfig(stem_channels=8, stage_channels=[8], stage_depths=[1], hidden_size=16)
    ).save_pretrained(tmp_path / "iqfm")
    tiny_processor().save_pretrained(tmp_path / "iqfm")
    models = {"mmwfm": str(model), "iqfm": str(tmp_path / "iqfm")}
    settings = {"pooling": "mean_std"}  # which IQFM has none of
    tones = describe_task("tones", str(write_splits(tmp_path / "tones", tone_rows)), settings)
    grid = arguments(regimes=["probe"], label_budgets=["4", "all"], seeds=[0, 1], scratch=False)
    cells = [cell for cell in plan_cells(models, [tones], grid) if cell.regime == "probe"]
    assert len(cells) == 3 * 2 * 2
    passes, compute_features = [], cells_mmwfm.compute_features
    monkeypatch.setattr(cells_mmwfm, "compute_features", lambda *a: passes.append(len(a[1])) or compute_features(*a))
    groups = []
    monkeypatch.setattr(benchmark_mmwfm, "run_quietly", lambda threads, function, *job: function(*job))
    monkeypatch.setattr(benchmark_mmwfm, "ProcessPoolExecutor", lambda *a, **k: ThreadPoolExecutor(1))
    monkeypatch.setattr(benchmark_mmwfm, "run_cell", lambda cell, *a: groups.append(cell))
    run_cells(cells, {"tones": tones}, models, tmp_path / "out", 1)
    # Each split once of both models and of the two random encoders, whose weights follow from the seed.
    assert sorted(passes) == sorted([24, 8, 12] * 4) and groups == []
    for cell in cells:
        result = json.loads((cells_mmwfm.cell_folder(tmp_path / "out", cell) / "test_results.json").read_text())
        assert result["trained_rows"] == (8 if cell.samples_per_class else 24)
        assert result["seconds"] > 0 and result["feature_seconds"] > 0 and result["test"]["rows"] == 12
        if cell.model == "mmwfm" and cell.samples_per_class is None:
            whole = result
    # The same as by `finetune`.
    processor = MMWFMProcessor.from_pretrained(tmp_path / "out" / "processors" / "tones-mmwfm")
    probe = FinetuningArguments(str(tmp_path / "one"), "probe", mixed_precision="no", results_only=True, **settings)
    found = finetune(str(model), processor, load_splits(tones.dataset), probe)
    assert found["test"] == whole["test"] and found["validation"] == whole["validation"]
    assert found["trained_parameters"] == whole["trained_parameters"] == 2 * (2 * 64 + 1)
    run_cells(cells, {"tones": tones}, models, tmp_path / "out", 1)
    assert len(passes) == 12  # what is finished is left alone
    numbers = collect(cells, {"tones": tones}, tmp_path / "out")
    assert set(numbers["regime"]) == {"probe"} and numbers["value"].between(0, 100).all()


def test_a_study_keeps_the_precision_that_it_began_with(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    study = script("benchmark")
    given = arguments(output_dir=str(tmp_path))
    for faster in (False, True):
        monkeypatch.setattr(precision_mmwfm, "multiplies_faster_in_bf16", lambda faster=faster: faster)
        kept = study.keep_recipe(given)
        assert kept.mixed_precision == json.loads((tmp_path / "recipe.json").read_text())["mixed_precision"] == "no"
        assert study.task_settings("rfp", kept)["mixed_precision"] == "no"
    assert capsys.readouterr().out.splitlines() == [
        "mixed precision: no, by `auto`",
        "mixed precision: no, as the run began",
    ]
    with pytest.raises(ValueError, match=r"of the same recipe, other: \['mixed_precision'\]"):
        study.keep_recipe(replace(given, mixed_precision="bf16"))


def test_a_study_that_is_killed_leaves_no_process_behind(tmp_path):
    MMWFMForPreTraining(MMWFMConfig.from_pretrained(PRESETS / "tiny")).save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    tones = write_splits(tmp_path / "tones", tone_rows)
    line = f"--output_dir {tmp_path / 'out'} --models mmwfm={tmp_path / 'model'} --tasks tones={tones} --regimes full "
    line += "--label_budgets all --num_train_epochs 100000 --num_proc 2"  # would take hours
    command = [sys.executable, str(ROOT / "training_scripts" / "benchmark.py"), *line.split()]
    with open(tmp_path / "log", "w") as log:
        study = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
    try:
        deadline = time.monotonic() + 300
        while len(list((tmp_path / "out" / "cells").rglob("run.json"))) < 2:  # both processes are at work
            assert study.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.2)
        workers = psutil.Process(study.pid).children(recursive=True)
    finally:
        study.kill()
        study.wait()
    gone, alive = psutil.wait_procs(workers, timeout=30)
    for process in alive:
        process.kill()
    assert len(gone) >= 2 and not alive


@pytest.mark.parametrize(
    "line, message",
    [
        ("--models m=configuration/models/tiny --tasks rfp", "expected `pretraining`"),
        ("--models m=configuration/models/tiny --tasks rfq --pretraining x.yaml", "expected a recipe|simulated twin"),
    ],
)
def test_wrong_command_lines_end_in_one_line(tmp_path, line, message):
    command = [sys.executable, "training_scripts/benchmark.py", "--output_dir", str(tmp_path / "x"), *line.split()]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode != 0 and "Traceback" not in run.stderr
    assert re.search(message, run.stderr), run.stderr
