"""`mixed_precision: auto`: both outcomes on any machine, resumed in the precision that the run began with."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modeling_mmwfm import finetuning_mmwfm as finetuning
from modeling_mmwfm import precision_mmwfm as precision
from modeling_mmwfm.finetuning_mmwfm import FinetuningArguments, finetune
from tests.small_sets import pretraining_arguments, run_pretraining, tiny_pretraining_model, tiny_processor, tone_rows
from tests.test_pretraining import stop_at

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def machine(monkeypatch):
    """Call it with how many times as long as in fp32 bf16 takes at each size; gives the list of what was timed."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    # The device that the recipes would train on here may not be the CPU.
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    def become(*ratios):
        timed, times = [], dict(zip(precision.LIMITS, ratios, strict=True))

        def seconds(size, dtype):
            timed.append((size, dtype))
            return 0.01 * (times[size] if dtype == torch.bfloat16 else 1)

        precision.multiplies_faster_in_bf16.cache_clear()
        monkeypatch.setattr(precision, "seconds_of_products", seconds)
        return timed

    yield become
    precision.multiplies_faster_in_bf16.cache_clear()


@pytest.mark.parametrize("ratios, expected", [((2, 0.3), "bf16"), ((0.9, 1.2), "no"), ((10, 0.3), "no")])
def test_auto_is_the_faster_type_of_a_processor(machine, ratios, expected):
    timed = machine(*ratios)
    assert precision.resolve_precision("auto", CPU) == expected
    assert ((512, torch.bfloat16) in timed) == (ratios[0] < 3)  # a hopeless one is not kept waiting
    count = len(timed)
    assert precision.resolve_precision("auto", CPU) == expected and len(timed) == count  # once in a process
    for name in precision.PRECISIONS:
        assert precision.resolve_precision(name, CPU) == name


def test_measuring_leaves_threads_and_random_draws_as_they_were():
    precision.multiplies_faster_in_bf16.cache_clear()
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        with torch.no_grad():
            assert precision.multiplies_faster_in_bf16() in (True, False)
        assert torch.get_num_threads() == 2 and torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_num_threads(threads)
    assert precision.seconds_of_products(16, torch.float32) > 0


@pytest.mark.parametrize("has_units", [True, False])
def test_auto_is_a_gpus_own_word(monkeypatch, has_units):
    def is_bf16_supported(including_emulation=True):
        return has_units or including_emulation

    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert precision.resolve_precision("auto", torch.device("cuda")) == ("bf16" if has_units else "no")
    assert precision.resolve_precision("auto", torch.device("mps")) == "no"


def test_a_launch_file_is_heard_where_the_recipe_leaves_it_open(machine, monkeypatch):
    machine(1, 0.3)
    for launched, expected in (("no", "bf16"), ("fp16", "fp16")):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
        assert precision.resolve_precision("auto", CPU) == expected
        assert precision.resolve_precision("no", CPU) == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(ValueError, match="`mixed_precision`: expected auto, no, bf16, fp16, found 'fp8'"):
        precision.resolve_precision("auto", CPU)


def began_with(folder):
    return json.loads((folder / "run.json").read_text())["mixed_precision"]


FAST, SLOW = (0.5, 0.3), (10, 10)


@pytest.mark.parametrize("first, other, expected", [(FAST, SLOW, "bf16"), (SLOW, FAST, "no")])
def test_pretraining_says_what_it_takes_and_resumes_in_it_on_another_machine(
    machine, tmp_path, capsys, first, other, expected
):
    def run(folder, **changes):
        settings = dict(num_train_epochs=2, save_epochs=1, eval_epochs=2, mixed_precision="auto")
        return run_pretraining(folder, **{**settings, **changes})

    machine(*first)
    stop_at(3, run, tmp_path)
    assert began_with(tmp_path) == expected
    assert [line for line in capsys.readouterr().out.splitlines() if "precision" in line] == [
        f"mixed precision: {expected}, by `auto`"
    ]
    timed = machine(*other)
    with pytest.raises(ValueError, match="other mixed_precision"):
        run(tmp_path, mixed_precision="no" if expected == "bf16" else "bf16")
    run(tmp_path)
    assert f"mixed precision: {expected}, as the run began\n" in capsys.readouterr().out
    assert began_with(tmp_path) == expected and timed == []
    run(tmp_path, mixed_precision=expected)  # has ended; given, it is the same run
    weights = tmp_path / "model.safetensors"
    machine(*other)
    run(tmp_path / "other")
    assert weights.read_bytes() != (tmp_path / "other" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("ratios, expected", [(FAST, "bf16"), (SLOW, "no")])
def test_finetuning_trains_in_what_it_chose_whatever_is_launched(
    machine, tmp_path, capsys, monkeypatch, ratios, expected
):
    base, trainers = tmp_path / "base", []
    tiny_pretraining_model().save_pretrained(base)
    splits = {"train": tone_rows(8, "train", 0), "validation": tone_rows(4, "validation", 1)}
    make_trainer = finetuning.make_trainer

    def note(*given):
        trainers.append(make_trainer(*given))
        return trainers[-1]

    monkeypatch.setattr(finetuning, "make_trainer", note)
    settings = dict(num_train_epochs=1, warmup_epochs=0, batch_size=8, lora_rank=2)
    arguments = FinetuningArguments(output_dir=str(tmp_path / "run"), **settings)
    machine(*ratios)
    finetune(str(base), tiny_processor(), splits, arguments)
    assert capsys.readouterr().out.count(f"mixed precision: {expected}, by `auto`\n") == 1
    assert began_with(tmp_path / "run") == expected == trainers[0].accelerator.mixed_precision
    machine(*(SLOW if ratios == FAST else FAST))
    finetune(str(base), tiny_processor(), splits, arguments)  # the same run, which has ended
    assert began_with(tmp_path / "run") == expected and len(trainers) == 1
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    arguments = FinetuningArguments(output_dir=str(tmp_path / "given"), mixed_precision="no", **settings)
    finetune(str(base), tiny_processor(), splits, arguments)
    assert trainers[1].accelerator.mixed_precision == "no"


def test_processes_take_the_choice_of_the_first(tmp_path):
    """Whatever they would measure themselves."""
    code = """
import os, sys
from dataclasses import dataclass
from pathlib import Path
import torch
from modeling_mmwfm import precision_mmwfm as precision

@dataclass
class Arguments:
    mixed_precision: str = "auto"

rank = int(os.environ["RANK"])
precision.multiplies_faster_in_bf16 = lambda: rank == 0
print(precision.settle_precision(Arguments(), Path(sys.argv[1])).mixed_precision)
torch.distributed.destroy_process_group()
"""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    environment = {**os.environ, **settings, "OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "run.json")],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=300)[0].split("\n") for process in processes]
    assert said == [["mixed precision: bf16, by `auto`", "bf16", ""], ["bf16", ""]]


def test_other_names_are_refused_by_the_arguments(tmp_path):
    for make in (pretraining_arguments, lambda folder, **given: FinetuningArguments(output_dir=str(folder), **given)):
        with pytest.raises(ValueError, match="`mixed_precision`: expected auto, no, bf16, fp16, found 'fp32'"):
            make(tmp_path, mixed_precision="fp32")
