"""`torch_compile` and `cuda_graphs`: the same losses at every size, and no need of a compiler or a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file

from modeling_mmwfm import MMWFMForPreTraining
from modeling_mmwfm.compiling_mmwfm import compile_if_possible
from modeling_mmwfm.graph_replay_mmwfm import ReplayedLoss
from tests.small_models import images, iq, make
from tests.small_sets import run_pretraining

ROOT = Path(__file__).parents[1]
SHORT = dict(max_steps=2, eval_epochs=1, save_epochs=9, batch_size=8)


@pytest.mark.parametrize(
    "option,line",
    [
        ("torch_compile", "`torch_compile`: no compiler works for cpu, the model runs"),
        ("cuda_graphs", "`cuda_graphs`: expected one process on a CUDA GPU, found 1 on cpu; steps are not recorded"),
    ],
)
def test_without_a_compiler_or_a_gpu_pretraining_says_so_in_one_line_and_runs(tmp_path, option, line):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the other process, so that weights can be compared bit by bit
    run_pretraining(tmp_path / "plain", **SHORT)
    torch.set_num_threads(threads)
    runs = json.dumps([{"folder": str(tmp_path / "run"), option: True, **SHORT}])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CXX": str(tmp_path / "no-compiler")}
    environment |= {"CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.pretraining_runs", runs],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    said = [text for text in ended.stderr.splitlines() if option in text]
    assert len(said) == 1 and line in said[0], ended.stderr
    assert "Traceback" not in ended.stderr and "inductor/" not in ended.stderr
    plain, found = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "run"))
    assert all(torch.equal(value, found[name]) for name, value in plain.items())


@pytest.mark.slow
def test_a_compiled_step_takes_other_sizes_and_gives_the_losses_and_gradients_of_the_uncompiled():
    PartialState(cpu=True)
    model = make(MMWFMForPreTraining, num_channels=3).train()
    compiled = compile_if_possible(model, torch.device("cpu"))
    assert compiled is not model
    generator = torch.Generator().manual_seed(0)
    batches = [
        {"pixel_values": images(3, 3, height, width), "image_noise": torch.rand(3, tokens, generator=generator)}
        for height, width, tokens in [(16, 16, 16), (24, 16, 24), (16, 16, 16)]
    ]
    batches.append({"iq_values": iq(3, 2, 64), "iq_noise": torch.rand(3, 16, generator=generator)})
    for batch in batches:
        found = []
        for step in (model, compiled):
            model.zero_grad()
            loss = step(**batch).loss
            loss.backward()
            found.append((loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
        assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
        torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_replayed_steps_give_the_losses_and_gradients_of_the_first_run_and_follow_the_weights():
    model = make(MMWFMForPreTraining, num_channels=3).cuda().train()
    replayed, generator = ReplayedLoss(model), torch.Generator().manual_seed(0)
    for step in range(3):
        batches = [  # two sources of one shape, whose gradients must not share memory
            {"pixel_values": images(3, 3, 16, 16), "image_noise": torch.rand(3, 16, generator=generator)},
            {"pixel_values": images(3, 3, 16, 16), "image_noise": torch.rand(3, 16, generator=generator)},
            {"iq_values": iq(3, 2, 64), "iq_noise": torch.rand(3, 16, generator=generator)},
        ]
        found = []
        for loss_of in (lambda source, batch: model(**batch).loss, replayed):
            model.zero_grad()
            with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
                losses = []
                for source, batch in enumerate(batches):
                    batch = {name: value.cuda() + 0.1 * step * (1 + source) for name, value in batch.items()}
                    loss = loss_of(str(source), batch)
                    loss.backward()
                    losses.append(loss.item())
                    del loss
            found.append((losses, {name: p.grad.clone() for name, p in model.named_parameters()}))
        assert found[1][0] == pytest.approx(found[0][0], rel=1e-3)
        torch.testing.assert_close(found[1][1], found[0][1], rtol=2e-2, atol=2e-3)
        with torch.no_grad():  # a graph that kept an earlier copy of the weights would not see this
            for parameter in model.parameters():
                parameter.mul_(1.1)
