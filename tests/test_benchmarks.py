"""The speed benchmark runs in miniature, goes on where it stopped, and compares medians."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_mmwfm import precision_mmwfm
from modeling_mmwfm.files_mmwfm import write_json
from tests.benchmarks import __main__ as benchmarks
from tests.benchmarks import cost, goals, models, preprocessing, timing
from tests.benchmarks.report import write_table
from tests.benchmarks.rows import ROWS
from tests.benchmarks.scale import MINIATURE, Scale

CPU_ROWS = [name for name, row in ROWS.items() if row.device == "cpu"]


def read(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module", autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Folder of a benchmark whose every row has been run in miniature."""
    folder = tmp_path_factory.mktemp("benchmarks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(folder / "huggingface"))
        patch.setattr(precision_mmwfm, "multiplies_faster_in_bf16", lambda: True)  # some rows would be left out
        report = benchmarks.write_report
        patch.setattr(benchmarks, "write_report", lambda *_: None)
        for name in CPU_ROWS:
            torch._dynamo.reset()  # in the benchmark each row has its own process
            benchmarks.main(["--output_dir", str(folder), "--only", name, "--miniature"])
        patch.setattr(benchmarks, "write_report", report)
        benchmarks.main(["--output_dir", str(folder), "--only", *CPU_ROWS, "--miniature"])
    return folder


def test_every_row_is_measured_and_every_goal_finds_its_series(measured):
    content = read(measured)
    assert list(content["rows"]) == CPU_ROWS == list(content["other_load"])
    assert content["scale"] == MINIATURE.as_dict()
    rounds = {row: MINIATURE.cost_repeats if row.startswith("cost") else MINIATURE.repeats for row in CPU_ROWS}
    rounds["finetuning-cached"] = 1
    for row, found in content["rows"].items():
        for name, series in found.items():
            assert len(series["seconds"]) == rounds[row], (row, name)
            # A later epoch is a difference of two runs, which in miniature is nearly nothing.
            assert row == "finetuning-cached" or min(series["seconds"]) > 0, (row, name)
    assert content["rows"]["finetuning-cached"]["ours, later epoch"]["encoded_rows"] == 0
    for goal in goals.GOALS:
        assert (goal.value(content["rows"]) is None) == goal.what.startswith("gpu"), goal.what
    assert {path.name for path in measured.iterdir()} >= {"results.json", "table.md", "speed.png", "cost.png"}
    assert not [path for path in measured.iterdir() if path.name.startswith(".")]


def test_the_table_says_what_was_found_reached_and_not_measured(measured):
    content = read(measured)
    ours, peer = ({"seconds": times, "items": 2, "flop": None, "unit": "samples"} for times in ([1, 2, 30], [4, 5, 6]))
    content["rows"]["finetuning-lora"] = {"ours": ours, "ViT": peer}
    table = write_table(content, measured / "other.md").read_text()
    line = "| finetuning-lora: samples/s over ViT | ours | ViT | 2.5 (0.281 - 3.67) x | ≥ 2 | yes |"
    assert line in table
    assert "| finetuning-lora | ours | 2,000 (1,500 - 16,000) | 1 (0.125 - 1.33) samples |" in table
    assert "gpu-pretraining-base (needs a GPU)" in table.split("## Not measured")[1]
    peer["seconds"] = [3, 3.9, 6]
    assert "1.95 (0.216 - 3.3) x | ≥ 2 | **no** |" in write_table(content, measured / "other.md").read_text()


def test_ratios_are_of_medians_and_of_the_fastest():
    def series(*seconds, flop=None):
        return {"seconds": seconds, "items": 10, "flop": flop}

    row = {"eager": series(2, 4, 90), "compiled": series(1, 5, 6), "peer": series(8, 8, 0.1), "other": series(20)}
    names = [f"row/{name}" for name in row]
    value = goals.ratio(names[:2], names[2:])({"row": row})
    assert (value.median, value.ours, value.peer) == (2, "row/eager", "row/peer")
    assert value.low < 2 == np.median([8, 8, 0.1]) / np.median([2, 4, 90]) <= value.high
    slowest = goals.ratio(names[:2], names[:2], slowest=True)({"row": row})
    assert (slowest.median, slowest.ours, slowest.peer) == (0.8, "row/compiled", "row/eager")
    assert goals.ratio(["row/absent"], names)({"row": row}) is None
    share = goals.ratio(["row/eager"], ["row/peak"], "flop")
    assert share({"row": {"eager": series(2, flop=60), "peak": series(1, flop=50)}}).median == 0.6
    spread = goals.Goal("", share, at_least=0.85, at_most=1.15)
    assert [spread.reached(value._replace(median=found)) for found in (0.8, 0.9, 1.2)] == [False, True, False]


def test_the_papers_pretraining_is_the_time_of_both_sources():
    row = {"images, ours": 10.0, "images, ours compiled": 5.0, "IQ, ours": 20.0}
    row = {name: {"seconds": [seconds], "items": 25600} for name, seconds in row.items()}
    assert goals.paper_minutes({"gpu-pretraining-small": row}).median == pytest.approx(100 * (5 + 20) / 60)
    assert goals.paper_minutes({"gpu-pretraining-small": {"images, ours": row["images, ours"]}}) is None


def test_rows_are_kept_and_an_interrupted_benchmark_goes_on(tmp_path, monkeypatch, capsys):
    measured, names = [], ["preprocessing", "reading", "cost-batch"]

    def fake(name, fails=False):
        def measure(scale):
            if fails:
                raise ValueError("stopped")
            measured.append(name)
            return {"ours": {"seconds": [len(measured)], "items": 1, "unit": "samples", "flop": None}}

        return measure

    def run(command, env):  # without a process of its own
        assert command[1:3] == ["-m", "tests.benchmarks"] and env["OMP_NUM_THREADS"] == str(MINIATURE.threads)
        failed = False
        try:
            benchmarks.main(command[3:])
        except ValueError:
            failed = True
        return type("Done", (), {"returncode": int(failed)})

    monkeypatch.setattr("subprocess.run", run)
    for name in ("plot_cost", "plot_speed"):
        monkeypatch.setattr(benchmarks, name, lambda *_: None)
    for name in names:
        monkeypatch.setitem(ROWS, name, ROWS[name]._replace(measure=fake(name, fails=name == "reading")))
    line = ["--output_dir", str(tmp_path), "--miniature", "--only", *names]
    with pytest.raises(SystemExit, match="rows that failed: reading"):
        benchmarks.main(line)
    assert measured == list(read(tmp_path)["rows"]) == ["preprocessing", "cost-batch"]
    monkeypatch.setitem(ROWS, "reading", ROWS["reading"]._replace(measure=fake("reading")))
    benchmarks.main(line)
    assert measured == ["preprocessing", "cost-batch", "reading"]
    benchmarks.main(line)
    assert len(measured) == 3
    benchmarks.main([*line[:3], "--again", "--only", "reading"])
    assert read(tmp_path)["rows"]["reading"]["ours"]["seconds"] == [4]
    assert read(tmp_path)["rows"]["preprocessing"]["ours"]["seconds"] == [1]
    write_json(tmp_path / "results.json", {**read(tmp_path), "scale": Scale(threads=3).as_dict()})
    with pytest.raises(SystemExit):
        benchmarks.main(line)
    assert "expected" in (error := capsys.readouterr().err) and "of the scale" in error


@pytest.mark.parametrize("faster", [True, False])
def test_rows_are_of_the_precision_of_the_recipes_or_left_out(tmp_path, monkeypatch, faster):
    monkeypatch.setattr(precision_mmwfm, "multiplies_faster_in_bf16", lambda: faster)
    names, types = ["pretraining-bf16", "inference-bf16", "cost-batch"], []
    for name in names[:2]:
        monkeypatch.setitem(ROWS, name, ROWS[name]._replace(measure=lambda scale: {}))

    def note(*given):
        types.append(given[2])
        return lambda: None

    monkeypatch.setattr(cost, "training_step", note)
    for name in ("plot_cost", "plot_speed"):
        monkeypatch.setattr(benchmarks, name, lambda *_: None)
    for name in names:
        benchmarks.main(["--output_dir", str(tmp_path), "--miniature", "--only", name])
    assert list(read(tmp_path)["rows"]) == names[0 if faster else 2 :]
    assert set(types) == {torch.bfloat16 if faster else torch.float32}
    table = (tmp_path / "table.md").read_text()
    assert f"recipes train on the CPU in: {'bf16' if faster else 'fp32'}" in table
    assert ("inference-bf16 (needs a device that multiplies faster in bf16)" in table) != faster


def test_calls_take_turns():
    order = []
    calls = {name: timing.Call(lambda name=name: order.append(name), 1) for name in "ab"}
    series = timing.take_turns(calls, MINIATURE)
    assert "".join(order) == "aabb" + MINIATURE.repeats * "ab"
    assert [len(found["seconds"]) for found in series.values()] == 2 * [MINIATURE.repeats]


def test_flop_are_those_of_the_layers():
    """Of a linear layer: 2 a weight and token forward, as much again for each of the two gradients."""
    config = models.our_config("tiny")
    tokens = 1 + 16
    width, inner = config.hidden_size, config.intermediate_size
    block = 2 * tokens * (4 * width**2 + 2 * width * inner) + 4 * tokens**2 * width
    encoder = models.our_mae("tiny", "eager").mmwfm
    found = timing.flop_of(encoder, models.images(1, Scale(image_size=64)), trains=False)
    assert found == config.num_hidden_layers * block + 2 * 16 * config.patch_size**2 * width
    inputs = models.images(1, Scale(image_size=64))
    trained, peer = models.our_mae("tiny", "eager"), models.peer_mae("tiny", 64, "eager")
    forward = timing.flop_of(trained, inputs, trains=False)
    # No gradient of the pixels is taken.
    assert 2.8 * forward < timing.flop_of(trained, inputs, trains=True) <= 3 * forward
    # ViTMAE projects hidden patches as well, and reconstructs something of CLS.
    patch, hidden = config.patch_size**2, 16 - int(16 * (1 - config.mask_ratio_image))
    more = 2 * hidden * patch * width + 2 * config.decoder_hidden_size * patch
    assert timing.flop_of(peer, inputs, trains=False) == forward + more


def test_the_numpy_reference_computes_what_the_processor_does():
    scale = Scale(batch_size=2, image_size=64, samples=200, spectrogram_frames=9, csi_shape=(2, 50, 150))
    for kind, (values, ours, reference) in preprocessing.prepare(scale).items():
        np.testing.assert_allclose(ours(values).numpy(), reference(values), atol=2e-3, err_msg=kind)


def test_a_point_of_a_sweep_has_the_peak_memory_of_its_own_process():
    point = {"kind": "step", "preset": "tiny", "batch_size": 64, "antennas": 1, "samples": 4096, "threads": 1}
    point["precision"] = "fp32"
    ballast = np.ones(2**27)  # this process has held 1 GiB more than that one will
    found = cost.measure_apart({**point, "repeats": 1, "min_seconds": 0.0}, Scale())
    assert found["items"] == 64 * 256 == found["batch_size"] * 256 and len(ballast)
    assert 0 < found["before_bytes"] < found["peak_bytes"] < cost.peak_bytes()
    assert found["peak_bytes"] - found["before_bytes"] > 64 * 256 * 64 * 4  # a layer's tokens at the least


def test_rows_of_gpus_run():
    torch._dynamo.reset()
    row = ROWS["gpu-pretraining-base"].measure(MINIATURE, device="cpu")
    value = goals.ratio(["gpu-pretraining-base/IQ, ours"], [f"gpu-pretraining-base/{goals.PEAK}"], "flop")
    assert value({"gpu-pretraining-base": row}).median > 0


def test_files_are_short():
    for path in Path(benchmarks.__file__).parent.glob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 250 and re.match('"""', text), path
