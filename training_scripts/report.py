"""One HTML page of a pretraining run and of the tasks adapted from it.

    python training_scripts/report.py --pretraining runs/demo/pretrain --runs runs/demo/rfp-lora runs/demo/rfp-scratch \
        --output runs/demo/report.html
"""

from dataclasses import dataclass, field

from modeling_mmwfm.recipes_mmwfm import run_script
from modeling_mmwfm.report_mmwfm import write_report


@dataclass
class ReportArguments:
    pretraining: str = field(metadata={"help": "output folder of pretrain.py"})
    runs: list[str] = field(metadata={"help": "output folders of finetune.py"})
    output: str = field(metadata={"help": "HTML file to write"})
    title: str = "Multimodal wireless foundation model"


def main(arguments: ReportArguments):
    print(write_report(arguments.pretraining, arguments.runs, arguments.output, arguments.title))


if __name__ == "__main__":
    run_script(main, ReportArguments)
