"""Every snippet of the README runs, in order, from a folder like a fresh checkout; `make`'s two are planned only.

Snippets whose run takes hours are run smaller, by the replacements in `SMALLER`; the rest of their text stays.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from modeling_mmwfm import MMWFMConfig, MMWFMForPreTraining

ROOT = Path(__file__).parents[1]
SMALLER = {
    "--samples 3200": "--samples 12",
    "pretrain-small-paper.yaml": "pretrain-small-paper.yaml --model configuration/models/tiny "
    "--num_train_epochs 2 --warmup_epochs 1 --batch_size 4",
    "pretrain-smoke.yaml": "pretrain-smoke.yaml --simulated_iq_samples 16 --simulated_image_samples 16 "
    "--num_train_epochs 1 --warmup_epochs 0 --batch_size 4",
    "benchmark-smoke.yaml": "benchmark-smoke.yaml --models mmwfm=configuration/models/tiny --pretraining_samples 40 "
    "--tasks rfp:60 --seeds 0 --label_budgets all --regimes lora --num_train_epochs 1 --min_steps 1",
    "--checkpoint FILE.pth": "--num_attention_heads 4 "
    f"--checkpoint {ROOT / 'tests/fixtures/golden/finetune_image_3channel_lora.pth'}",
}


def write_recordings(folder):
    """Nine recordings of each of two tones, `.npy`."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    lines = ["file_name,label,group,sampling_rate_hz"]
    for number in range(18):
        label = ("low", "high")[number % 2]
        signal = np.exp(2j * np.pi * (0.02 if label == "low" else 0.2) * np.arange(4096))
        signal = signal + 0.1 * (generator.standard_normal(4096) + 1j * generator.standard_normal(4096))
        np.save(folder / f"{number}.npy", signal.astype(np.complex64))
        lines.append(f"{number}.npy,{label},device{number},1e6")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def test_snippets_of_the_readme_run(tmp_path):
    for name in ("processing", "training_scripts", "configuration", "modeling_mmwfm", "model_cards", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    write_recordings(tmp_path / "my_recordings")
    text = (ROOT / "README.md").read_text()
    for published, smaller in SMALLER.items():
        assert published in text
        text = text.replace(published, smaller)
    snippets = re.findall(r"```(\w*)\n(.*?)```", text, flags=re.S)
    kinds = ["make", "python", "python", "bash", "python", "bash", "bash", "python", "bash"]
    assert [kind for kind, _ in snippets] == kinds
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    for kind, code in snippets:
        if kind == "make":
            targets = re.findall(r"^make (\w+)", code, flags=re.M)
            assert targets == ["demo", "test"]
            subprocess.run(["make", "--dry-run", *targets], cwd=ROOT, check=True, capture_output=True)
            continue
        command = ["bash", "-euc", code] if kind == "bash" else [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, code + done.stderr[-3000:]
    for made in (
        "line-of-sight/adapter_model.safetensors",
        "mine-test/test_metrics.json",
        "smoke/model.safetensors",
        "small/model.safetensors",
        "benchmark-smoke/report.html",
        "converted/adapter/adapter_config.json",
    ):
        assert (tmp_path / "runs" / made).is_file(), made


def test_the_table_of_presets_gives_the_true_sizes():
    rows = re.findall(
        r"^\| `(\w+)` \| (\d+) x (\d+), (\d+) heads .*?\| ([\d,]+) \|", (ROOT / "README.md").read_text(), re.M
    )
    presets = (ROOT / "configuration/models").iterdir()
    assert {row[0] for row in rows} == {path.name for path in presets if not (path.name == "iqfm" or "-" in path.name)}
    for name, width, depth, heads, parameters in rows:
        config = MMWFMConfig.from_pretrained(ROOT / "configuration/models" / name)
        assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (
            int(width),
            int(depth),
            int(heads),
        )
        with torch.device("meta"):
            model = MMWFMForPreTraining(config)
        assert sum(p.numel() for p in model.mmwfm.layers.parameters()) == int(parameters.replace(",", ""))
