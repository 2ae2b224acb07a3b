"""Linear and nearest-neighbour baselines of a labelled data set, under its own splits and under the paper's protocol.

python training_scripts/baseline.py --dataset data/rfp --output_dir runs/rfp-baseline
"""

from dataclasses import dataclass, field
from pathlib import Path

from modeling_mmwfm.baselines_mmwfm import run_baselines
from modeling_mmwfm.data_collator_mmwfm import load_splits
from modeling_mmwfm.files_mmwfm import write_json
from modeling_mmwfm.recipes_mmwfm import run_script


@dataclass
class BaselineArguments:
    dataset: str = field(metadata={"help": "folder or Hub name of the labelled set"})
    output_dir: str = field(metadata={"help": "folder for baselines.json"})
    samples_per_class: int | None = field(
        default=None, metadata={"help": "label budget: training rows of each class; of a regression, in all"}
    )
    seed: int = field(default=0, metadata={"help": "of the label budget and of the paper's random fifth"})


def main(arguments: BaselineArguments) -> dict:
    results = run_baselines(load_splits(arguments.dataset), arguments.seed, arguments.samples_per_class)
    output_dir = Path(arguments.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / "baselines.json", results)
    for protocol, baselines in results.items():
        for name, numbers in baselines.items():
            print(f"{protocol}, {name}: { ({key: round(value, 3) for key, value in numbers.items()}) }")
    return results


if __name__ == "__main__":
    run_script(main, BaselineArguments)
