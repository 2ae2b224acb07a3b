"""Pretraining: batches, equality of runs in one and two processes, exact resumption, saved results."""

import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from datasets import Dataset
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from modeling_mmwfm import MMWFMConfig, MMWFMForPreTraining
from modeling_mmwfm import pretraining_mmwfm as pretraining
from modeling_mmwfm import tracking_mmwfm as tracking
from modeling_mmwfm.data_collator_mmwfm import MMWFMDataCollator, load_splits, shifted_iq
from modeling_mmwfm.step_batches_mmwfm import FiniteCheck, StepBatches, StreamBatches
from tests.small_sets import (
    PRESETS,
    image_rows,
    pretraining_arguments,
    run_pretraining,
    tiny_pretraining_model,
    tiny_processor,
    tone_rows,
)

ROOT = Path(__file__).parents[1]
# 12 steps with a checkpoint after every third; 7 rows are not equal shares for two processes.
SHORT = dict(num_train_epochs=4, eval_epochs=4, save_epochs=1, batch_size=7, carrier_shift=0.1, max_grad_norm=1.0)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    run_pretraining(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in `in_processes`: another number of threads sums in another order, and weights are compared bit by bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("short") / "run"
    run_pretraining(folder, **SHORT)
    return folder


def in_processes(number, *runs, **environment):
    """Runs of `pretraining_runs` one after the other in so many processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(number)] if number > 1 else []
    runs = json.dumps([{**SHORT, **run} for run in runs])
    command = [sys.executable, *launcher, "-m", "tests.pretraining_runs", runs]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def stop_at(last_step, run, folder):
    """Interrupt a run when it has written the checkpoint of that step."""
    save = pretraining.save_checkpoint

    def save_and_stop(accelerator, output_dir, step, keep):
        save(accelerator, output_dir, step, keep)
        if step == last_step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run(folder)


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def assert_bit_equal(expected, found):
    expected, found = weights_of(expected), weights_of(found)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def log_of(folder, but=("samples_per_s", "tokens_per_s", "time_left_s")):
    log = json.loads((folder / "training_log.json").read_text())
    return [{name: value for name, value in row.items() if name not in but} for row in log]


def assert_hub_ready(folder):
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "processor_config.json", "modeling_mmwfm.py", "README.md"} <= names
    assert {"losses.png", "reconstruction_iq.png", "reconstruction_image.png"} <= names
    assert not [name for name in names if name.startswith((".", "checkpoint"))]


def test_a_step_takes_a_mini_batch_of_each_family_and_sums_their_gradients():
    model, processor = tiny_pretraining_model(), tiny_processor()
    collator = MMWFMDataCollator(processor)
    batches = [collator(tone_rows(4, "train", 0)[:]), collator(image_rows(4, "train", 1)[:])]
    noise = [{"iq_noise": torch.rand(4, 8)}, {"image_noise": torch.rand(4, 4)}]
    for batch, values in zip(batches, noise):
        model(**batch, **values).loss.backward()
    summed = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    # `labels` apart, both families in two separate sequences must give the gradients of the summed loss.
    sum(model(**batch, **values).loss for batch, values in zip(batches, noise)).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, summed[name], msg=name)


def test_two_threads_give_positions_the_same_gradient_again():
    """Each position sums over all samples that keep it, in one order."""
    embeddings = tiny_pretraining_model().mmwfm.iq_embeddings
    generator = torch.Generator().manual_seed(0)
    tokens = embeddings.tokenize(torch.randn(64, 4, 2, 1024, generator=generator))
    index = torch.rand(64, 256, generator=generator).argsort(1)[:, :77]
    upstream = torch.randn(64, 77, 64, generator=generator)

    def gradient():
        embeddings.zero_grad()
        embeddings(tokens, index).backward(upstream)
        return embeddings.positions.antenna_embeddings.weight.grad.clone()

    torch.set_num_threads(2)
    gradients = [gradient() for _ in range(51)]
    torch.set_num_threads(1)  # the fixture's, which the other tests rely on
    assert all(torch.equal(gradients[0], other) for other in gradients)


def numbers(count):
    return Dataset.from_dict({"number": list(range(count))}).with_format("numpy")


def take_numbers(columns, draws, generator):
    return columns["number"]


def test_every_pass_visits_every_row_once_and_the_shorter_family_restarts():
    batches = StepBatches(numbers(12), take_numbers, 4, 9, key=(3, 0))
    passes = [np.concatenate([batches[step] for step in range(start, start + 3)]) for start in (0, 3, 6)]
    for visited in passes:
        assert sorted(visited) == list(range(12))
    assert not np.array_equal(passes[0], passes[1])


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_rows_shifts_and_mask_noise_of_the_same_batch(world_size):
    collator, config = (
        MMWFMDataCollator(tiny_processor(), carrier_shift=0.5),
        MMWFMConfig.from_pretrained(PRESETS / "tiny"),
    )
    settings = dict(rows=tone_rows(24, "train", 0), collator=collator, batch_size=7, num_steps=9, key=(0, 1))
    whole = StepBatches(**settings, noise_config=config)[4]
    sources = [
        StepBatches(**settings, noise_config=config, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    for name, value in whole.items():
        for rank, source in enumerate(sources):
            torch.testing.assert_close(source[4][name], value[rank::world_size], rtol=0, atol=0)
    assert not torch.equal(whole["iq_noise"], StepBatches(**settings, noise_config=config)[5]["iq_noise"])
    # the mean over rows from the processes' means
    rows = whole["iq_values"].square().mean((1, 2, 3))
    parts = [source.weight * rows[rank::world_size].mean() for rank, source in enumerate(sources)]
    torch.testing.assert_close(sum(parts) / world_size, rows.mean())


def test_fewer_rows_than_processes_are_refused():
    with pytest.raises(ValueError, match="each of 3 processes, found 2"):
        StepBatches(numbers(12), take_numbers, 2, 9, key=(3, 0), world_size=3)


def test_pretraining_lowers_the_loss_and_leaves_a_hub_ready_folder(pretrained):
    log = json.loads((pretrained / "training_log.json").read_text())
    for loss in ("iq_loss", "image_loss"):
        assert np.mean([row[loss] for row in log[-6:]]) < 0.95 * np.mean([row[loss] for row in log[:3]])
    assert {"validation_iq_loss", "validation_image_loss"} <= log[-1].keys()
    assert_hub_ready(pretrained)
    card = ModelCard.load(pretrained / "README.md")
    assert card.data.license == "apache-2.0" and f"{log[-1]['validation_iq_loss']:.4f}" in card.text


def test_the_log_tells_speed_gradient_norm_and_the_time_left(pretrained):
    log = json.loads((pretrained / "training_log.json").read_text())
    for row in log:
        assert row["gradient_norm"] > 0 and row["samples_per_s"] > 0
        # 8 tokens of a tone, 4 of an image
        assert row["tokens_per_s"] == pytest.approx(row["samples_per_s"] * (8 + 4) / 2, rel=0.01)
    assert log[-1]["time_left_s"] == 0 < log[0]["time_left_s"]


def test_speed_counts_training_alone_and_the_time_left_counts_all(monkeypatch):
    clock = iter([0.0, 10.0, 30.0, 40.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    speed = tracking.Speed(0, num_steps=40)
    assert speed.look(10, samples=8, tokens=0) == {"samples_per_s": 8.0, "time_left_s": 30.0}
    speed.skip(10)  # an evaluation of 20 s
    assert speed.look(20, samples=8, tokens=80) == {"samples_per_s": 8.0, "tokens_per_s": 80.0, "time_left_s": 40.0}


def test_a_run_killed_at_any_moment_resumes_to_bit_equal_weights(short_run, tmp_path):
    in_step, in_save = tmp_path / "in_step", tmp_path / "in_save"
    step = int(np.random.default_rng().integers(3, 12))
    runs = {"folder": str(in_step), "kill_step": step, "fork": True}, {"folder": str(in_save), "kill_save": 2}
    ended = in_processes(1, *runs)
    assert ended.returncode == -9, ended.stderr
    assert (in_step / f"checkpoint-{step - step % 3}").is_dir()
    names = {path.name for path in in_save.iterdir()}  # it died while it wrote its second checkpoint
    assert "checkpoint-3" in names and ".unfinished-6" in names and "checkpoint-6" not in names
    for folder in (in_step, in_save):
        assert not (folder / "model.safetensors").exists()
        run_pretraining(folder, **SHORT)
        assert_bit_equal(short_run, folder)
        assert log_of(folder) == log_of(short_run)
        assert_hub_ready(folder)


def test_two_processes_train_like_one_and_resume_exactly(short_run, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    step = int(np.random.default_rng().integers(3, 12))
    ended = in_processes(2, {"folder": str(whole)}, {"folder": str(killed), "kill_step": step})
    assert ended.returncode and "SIGKILL" in ended.stderr, ended.stderr
    assert (killed / f"checkpoint-{step - step % 3}").is_dir() and not (killed / "model.safetensors").exists()
    broken = {"folder": str(tmp_path / "broken"), "base_learning_rate": 1e30, "warmup_epochs": 0}
    ended = in_processes(2, {"folder": str(killed)}, broken)
    assert ended.returncode and "nonfinite_step_2.safetensors" in ended.stderr, ended.stderr
    saved = load_file(tmp_path / "broken" / "nonfinite_step_2.safetensors")
    assert len(saved["iq.iq_values"]) == len(saved["image.image_noise"]) == 7  # rows of both processes
    assert_bit_equal(whole, killed)
    assert log_of(killed) == log_of(whole)
    assert_hub_ready(killed)
    # losses, gradient norms and weights of one process, to rounding
    for one, two in zip(log_of(short_run), log_of(whole), strict=True):
        assert two == pytest.approx(one, rel=1e-5)
    assert_close_weights(short_run, whole, 1e-5)


def assert_close_weights(expected, found, tolerance):
    found = weights_of(found)
    for name, value in weights_of(expected).items():
        if "k_proj.bias" not in name:  # attention does not depend on it: Adam moves it by rounding errors
            torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance, msg=name)


def launch_settings(name):
    path = str(ROOT / "configuration" / "accelerate" / f"{name}.yaml")
    return _validate_launch_command(launch_command_parser().parse_args(["--config_file", path, "script.py"]))[0]


def test_launch_configurations_are_understood_by_accelerate():
    for path in (ROOT / "configuration" / "accelerate").glob("*.yaml"):
        load_config_from_file(str(path))
    found = {
        name: (settings.use_cpu, settings.multi_gpu, settings.use_fsdp, settings.num_machines)
        for name in ("cpu", "ddp", "ddp-multinode", "fsdp")
        for settings in [launch_settings(name)]
    }
    assert found == {
        "cpu": (True, False, False, 1),
        "ddp": (False, True, False, 1),
        "ddp-multinode": (False, True, False, 2),
        "fsdp": (False, False, True, 1),
    }
    assert launch_settings("fsdp").fsdp_transformer_layer_cls_to_wrap == "MMWFMLayer"
    assert {launch_settings(name).mixed_precision for name in found} == {"no"}  # the recipe decides


def test_a_sharded_model_trains_resumes_and_is_saved_whole(tmp_path):
    settings = {
        name: value
        for name, value in prepare_multi_gpu_env(launch_settings("fsdp")).items()
        if name.startswith(("FSDP_", "ACCELERATE_USE_FSDP", "ACCELERATE_MIXED_PRECISION"))
    }
    assert settings["FSDP_VERSION"] == "2" and settings["ACCELERATE_MIXED_PRECISION"] == "no"
    one, whole, stopped = tmp_path / "one", tmp_path / "whole", tmp_path / "stopped"
    run_pretraining(one, **SHORT, max_steps=6)
    runs = [{"folder": str(whole)}, {"folder": str(stopped), "stop_step": 3}, {"folder": str(stopped)}]
    changes = {"max_steps": 6, "mixed_precision": "bf16"}
    ended = in_processes(2, *({**run, **changes} for run in runs), **settings)
    assert ended.returncode == 0, ended.stderr
    assert_bit_equal(whole, stopped)
    assert_hub_ready(stopped)
    assert json.loads((whole / "config.json").read_text())["architectures"] == ["MMWFMForPreTraining"]
    assert {value.dtype for value in weights_of(whole).values()} == {torch.float32}
    assert weights_of(whole).keys() == weights_of(one).keys()
    MMWFMForPreTraining.from_pretrained(whole)
    for expected, found in zip(log_of(one), log_of(whole), strict=True):
        assert found == pytest.approx(expected, rel=0.02)  # bf16
    assert_close_weights(one, whole, 0.01)


def test_a_finished_run_is_not_repeated_and_another_one_is_refused(pretrained):
    before = (pretrained / "model.safetensors").stat().st_mtime_ns
    run_pretraining(pretrained)
    assert (pretrained / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="other seed"):
        run_pretraining(pretrained, seed=5)


def test_a_loss_that_is_not_finite_stops_the_run_and_its_batch_is_saved(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match=r"finite loss.*step 2;.*nonfinite_step_2.safetensors"):
        run_pretraining(folder, base_learning_rate=1e30, warmup_epochs=0, logging_steps=100, save_epochs=0.3)
    assert not (folder / "checkpoint-2").exists() and not (folder / "model.safetensors").exists()
    with safe_open(folder / "nonfinite_step_2.safetensors", "pt") as file:
        names, metadata = set(file.keys()), file.metadata()
        iq, noise = file.get_tensor("iq.iq_values"), file.get_tensor("iq.iq_noise")
    assert names == {"iq.iq_values", "iq.iq_noise", "image.pixel_values", "image.image_noise"}
    assert metadata["step"] == "2" and len(json.loads(metadata["torch_seeds"])) == 1
    collator = MMWFMDataCollator(tiny_processor())
    batches = StepBatches(
        tone_rows(24, "train", 0), collator, 8, 9, (0, 1), noise_config=tiny_pretraining_model().config
    )
    assert torch.equal(batches[1]["iq_values"], iq) and torch.equal(batches[1]["iq_noise"], noise)


def test_the_first_of_the_steps_that_are_not_finite_is_named_when_the_device_is_looked_at_later(tmp_path):
    check, one = FiniteCheck(Accelerator(cpu=True), seed=0), torch.tensor(1.0)
    batches = {"iq": [{"iq_values": torch.full((2, 3), float(step))} for step in range(9)]}
    check.note(2, {"iq": one}, one)
    check.look(batches, tmp_path)
    check.note(3, {"iq": one}, one * torch.inf)
    check.note(4, {"iq": one * torch.nan}, one)
    with pytest.raises(ValueError, match="step 4;"):
        check.look(batches, tmp_path)
    assert load_file(tmp_path / "nonfinite_step_4.safetensors")["iq.iq_values"].eq(3).all()


@pytest.fixture
def sharded_set(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)  # seconds after each pass
    folder = tmp_path_factory.mktemp("sharded")
    for split, count in {"train": 24, "validation": 6}.items():
        rows = tone_rows(count, split, 0)
        for number in range(2):
            rows.shard(2, number).to_parquet(folder / f"{split}-0000{number}-of-00002.parquet")
    return folder


def test_processes_read_different_rows_of_a_stream_and_every_pass_has_its_own_order(sharded_set):
    def starts(columns, draws, generator):  # what tells rows apart
        return {"iq_values": torch.from_numpy(np.asarray(columns["iq"])[:, 0, 0, 0])}

    seen = []
    for rank in (0, 1):
        rows = load_splits(str(sharded_set), streaming=True)["train"]
        batches = StreamBatches(rows, starts, 6, 8, (0, 0), rank, 2, buffer_size=8)
        steps = [batch["iq_values"] for batch in batches]
        assert len(steps) == 8 and {len(step) for step in steps} == {3}
        first, second = torch.cat(steps[:4]), torch.cat(steps[4:])
        assert sorted(first.tolist()) == sorted(second.tolist()) and not torch.equal(first, second)
        seen += first.tolist()
        assert torch.equal(batches[5]["iq_values"], steps[5])
        batches.first = 3
        assert torch.equal(next(iter(batches))["iq_values"], steps[3])
    assert len(set(seen)) == 24


def test_a_stream_trains_without_its_length_and_resumes_exactly(sharded_set, tmp_path):
    splits = load_splits(str(sharded_set), streaming=True)

    def run(folder, **changes):
        settings = dict(
            num_train_epochs=4, max_steps=12, batch_size=6, save_epochs=1, eval_epochs=2, carrier_shift=0.1
        )
        arguments = pretraining_arguments(folder, **settings | changes)
        rows = {"iq": splits["train"]}, {"iq": splits["validation"]}
        return pretraining.pretrain(tiny_pretraining_model(), tiny_processor(), *rows, arguments)

    log = run(tmp_path / "whole")
    assert log[-1]["step"] == 12 and log[-1]["epoch"] == 4 and "validation_iq_loss" in log[-1]
    stop_at(6, run, tmp_path / "stopped")
    run(tmp_path / "stopped")
    assert_bit_equal(tmp_path / "whole", tmp_path / "stopped")
    with pytest.raises(ValueError, match="`max_steps`: expected the number of steps"):
        run(tmp_path / "endless", max_steps=None)
    with pytest.raises(ValueError, match="a stream of 30 rows or more"):
        run(tmp_path / "large", batch_size=30)


class PairConfig(PreTrainedConfig):
    model_type = "pair"


class PairModel(PreTrainedModel):
    """Makes two noisy views of IQ more alike than others, from torch's own draws; has no masks and no images."""

    config_class = PairConfig

    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(256, 8)
        self.post_init()

    def forward(self, iq_values):
        views = [self.layer(iq_values.flatten(1) + torch.randn(len(iq_values), 256)) for _ in range(2)]
        return ModelOutput(loss=torch.nn.functional.cross_entropy(views[0] @ views[1].T, torch.arange(len(iq_values))))


def test_any_model_with_a_loss_trains_and_resumes_exactly(tmp_path):
    def run(folder, rows=None):
        torch.manual_seed(0)
        train, validation = rows or {"iq": tone_rows(24, "train", 0)}, {"iq": tone_rows(6, "validation", 1)}
        arguments = pretraining_arguments(folder, num_train_epochs=4, save_epochs=1, eval_epochs=2)
        return pretraining.pretrain(PairModel(PairConfig()), tiny_processor(), train, validation, arguments)

    log = run(tmp_path / "whole")
    assert "tokens_per_s" not in log[-1] and not list((tmp_path / "whole").glob("reconstruction*"))
    stop_at(6, run, tmp_path / "stopped")
    run(tmp_path / "stopped")
    assert log_of(tmp_path / "stopped") == log_of(tmp_path / "whole")
    assert_bit_equal(tmp_path / "whole", tmp_path / "stopped")
    with pytest.raises(
        ValueError, match=r"expected rows of iq or narrowband, which this model has, found \['image'\]"
    ):
        run(tmp_path / "other", {"image": image_rows(8, "train", 0)})


def test_a_model_of_images_alone_trains_on_images_alone(tmp_path):
    model = MMWFMForPreTraining(MMWFMConfig.from_pretrained(PRESETS / "tiny", modalities=["image"]))
    rows = {"image": image_rows(16, "train", 1)}
    arguments = pretraining_arguments(tmp_path / "run", num_train_epochs=2)
    log = pretraining.pretrain(model, tiny_processor(), rows, {}, arguments)
    assert "image_loss" in log[-1] and (tmp_path / "run" / "reconstruction_image.png").is_file()
    arguments.output_dir = str(tmp_path / "other")
    with pytest.raises(ValueError, match=r"rows of image or csi, which.*found \['iq'\]"):
        pretraining.pretrain(model, tiny_processor(), {"iq": tone_rows(8, "train", 0)}, {}, arguments)


def test_arguments_that_cannot_be_are_refused(monkeypatch):
    for name in ("batch_size", "max_steps", "num_train_epochs"):
        with pytest.raises(ValueError, match=f"`{name}`: expected more than 0, found 0"):
            pretraining_arguments("x", **{name: 0})
    with pytest.raises(ValueError, match="`report_to`: expected tensorboard, trackio or none, found 'paper'"):
        pretraining_arguments("x", report_to=["paper"])
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="package `trackio` to be installed.*pip install trackio"):
        pretraining_arguments("x", report_to=["trackio"])
    assert pretraining_arguments("x", report_to=["none"]).report_to == []


def test_tensorboard_shows_the_log_and_reconstructions(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = run_pretraining(tmp_path / "run", **SHORT, report_to=["tensorboard"])
    events = EventAccumulator(str(tmp_path / "run" / "logs" / "pretraining"))
    events.Reload()
    losses = [event.value for event in events.Scalars("iq_loss")]
    assert losses == pytest.approx([row["iq_loss"] for row in log])
    assert {"gradient_norm", "learning_rate", "samples_per_s", "validation_iq_loss"} <= set(events.Tags()["scalars"])
    assert {"reconstruction_iq", "reconstruction_image"} <= set(events.Tags()["images"])


def test_trackio_takes_the_log_and_reconstructions(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    environment = {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    ended = in_processes(1, {"folder": str(tmp_path / "run"), "report_to": ["trackio"]}, **environment)
    assert ended.returncode == 0, ended.stderr
    assert list((tmp_path / "trackio").glob("pretraining*.db"))


def test_the_script_simulates_its_data_and_leaves_a_hub_ready_folder(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    settings = dict(model="configuration/models/tiny", simulated_iq_samples=12, simulated_image_samples=12)
    settings |= dict(max_steps=2, batch_size=4, image_height=32, image_width=32, output_dir=folder)
    command = [sys.executable, str(ROOT / "training_scripts" / "pretrain.py")]
    command += [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0 and "is complete" in ended.stdout, ended.stderr
    assert_hub_ready(folder)
    assert not (folder / "data").exists()
    assert "pretrain-iq, 12 samples simulated with seed 0" in (folder / "README.md").read_text()
    # once more: nothing to do but to take away what an interruption at the very end left
    (folder / "data" / "pretrain-iq").mkdir(parents=True)
    (folder / "data" / ".pretrain-iq-abc").mkdir()
    before = (folder / "model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(sys, "argv", command[1:])
    runpy.run_path(command[1], run_name="__main__")
    assert (folder / "model.safetensors").stat().st_mtime_ns == before and not (folder / "data").exists()


def test_a_carrier_shift_moves_the_spectrum_by_that_share_of_the_rate():
    rows = tone_rows(1, "train", 0)
    iq = np.asarray(rows["iq"][:])
    shifted = shifted_iq(rows[:], 0.5, np.array([0.5]))
    peaks = [np.fft.fftfreq(128)[np.abs(np.fft.fft(x[0, 0] @ [1, 1j])).argmax()] for x in (iq, shifted)]
    assert (peaks[1] - peaks[0]) % 1 == pytest.approx(0.25, abs=1 / 128)
    np.testing.assert_allclose(np.square(shifted).sum(-1), np.square(iq).sum(-1), rtol=1e-4)


def test_evaluation_shifts_a_row_the_same_way_in_any_batch():
    rows, collator = tone_rows(6, "test", 0), MMWFMDataCollator(tiny_processor(), carrier_shift=0.5)
    together = collator(rows[:])["iq_values"]
    assert torch.equal(together[4:5], collator(rows[4:5])["iq_values"])
    assert not torch.allclose(together, MMWFMDataCollator(tiny_processor())(rows[:])["iq_values"])
