"""The demonstration: the released model on two measured sets and a simulated one, few labels to all, in one page.

    python training_scripts/demo.py --output_dir runs/demo

The measured recordings lie in examples/ and go through `processing.recording_folder` as a user's own would. The grid is
that of `benchmark.py`; the same command again goes on where it was.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `processing` is not an installed package

from modeling_mmwfm.benchmark_mmwfm import BenchmarkArguments, describe_task, plan_cells, run_cells
from modeling_mmwfm.demo_mmwfm import MODEL, write_report
from modeling_mmwfm.demo_page_mmwfm import METHODS
from modeling_mmwfm.files_mmwfm import write_json
from modeling_mmwfm.precision_mmwfm import PRECISION, settle_precision
from modeling_mmwfm.recipes_mmwfm import run_script
from processing.examples import EXAMPLES, ROOT, Example, other_inputs


@dataclass
class DemoArguments:
    output_dir: str = field(metadata={"help": "folder of data, cells and report.html"})
    model: str = field(default=str(ROOT / "model_cards" / "mmwfm-small"), metadata={"help": "pretraining checkpoint"})
    num_draws: int = field(default=5, metadata={"help": "of labels, and where it can be of the split"})
    label_budgets: list[str] = field(default_factory=lambda: ["1", "2", "5", "10", "all"])
    num_proc: int = field(default=2, metadata={"help": "cells that run at the same time"})
    mixed_precision: str = field(default="auto", metadata=PRECISION)


def main(arguments: DemoArguments):
    output_dir, began = Path(arguments.output_dir), time.perf_counter()
    if (output_dir / "report.html").is_file():
        print(output_dir / "report.html")
        return
    arguments = settle_precision(arguments, output_dir / "demo.json")
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / "demo.json", asdict(arguments))

    # data
    tasks, cells = {}, []
    for name, example in EXAMPLES.items():
        for draw in range(arguments.num_draws):
            split = f"{name}-{draw}" if example.draws else name
            if split not in tasks:
                folder = output_dir / "data" / split
                if not folder.exists():
                    example.build(folder, draw)
                tasks[split] = describe_task(split, str(folder), task_settings(example, arguments.mixed_precision))
            plan = replace(BENCHMARK, label_budgets=arguments.label_budgets, seeds=[draw])
            cells += plan_cells({MODEL: arguments.model}, [tasks[split]], plan)

    # grid
    cells = [cell for cell in cells if (cell.model, cell.regime) in METHODS]
    run_cells(cells, tasks, {MODEL: arguments.model}, output_dir, arguments.num_proc)

    # page
    spent = json.loads((output_dir / "seconds.json").read_text()) if (output_dir / "seconds.json").is_file() else 0.0
    write_json(output_dir / "seconds.json", spent := spent + time.perf_counter() - began)
    write_report(arguments, EXAMPLES, other_inputs, cells, tasks, spent)
    print(output_dir / "report.html")


BENCHMARK = BenchmarkArguments(output_dir="", models=[], tasks=[], regimes=["probe", "lora"])


def task_settings(example: Example, mixed_precision: str) -> dict:
    recipe = yaml.safe_load((ROOT / "configuration" / "tasks" / "demo.yaml").read_text())
    return recipe | example.settings | {"mixed_precision": mixed_precision}


if __name__ == "__main__":
    run_script(main, DemoArguments)
