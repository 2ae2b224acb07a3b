"""Score an adapted model or adapter on a split of a data set.

python training_scripts/evaluate_model.py --model runs/rfp-lora --dataset data/rfp --split test --output_dir runs/eval
"""

from dataclasses import dataclass, field

from modeling_mmwfm import MMWFMProcessor
from modeling_mmwfm.data_collator_mmwfm import MMWFMDataCollator, load_splits
from modeling_mmwfm.evaluation_mmwfm import evaluate_task
from modeling_mmwfm.finetuning_mmwfm import load_adapted
from modeling_mmwfm.recipes_mmwfm import run_script


@dataclass
class EvaluationArguments:
    model: str = field(metadata={"help": "folder of a fine-tuned model or adapter"})
    dataset: str = field(metadata={"help": "folder or Hub name of the labelled set"})
    output_dir: str = field(metadata={"help": "folder for the results (JSON) and the figure (PNG)"})
    split: str = "test"
    batch_size: int = 64
    carrier_shift: float = field(default=0.0, metadata={"help": "carrier shift, share of the sampling rate"})


def main(arguments: EvaluationArguments) -> dict:
    splits = load_splits(arguments.dataset)
    if arguments.split not in splits:
        raise ValueError(f"`split`: expected one of {sorted(splits)}, found {arguments.split!r}")
    model = load_adapted(arguments.model)
    column = "position" if model.config.problem_type == "regression" else "label"
    rows = splits[arguments.split]
    if column == "label" and rows.features["label"].names != list(model.config.id2label.values()):
        raise ValueError(
            f"expected the classes {list(model.config.id2label.values())} that the model was trained on, found "
            f"{rows.features['label'].names}"
        )
    processor = MMWFMProcessor.from_pretrained(arguments.model)
    collator = MMWFMDataCollator(processor, arguments.carrier_shift, column)
    result = evaluate_task(model, rows, collator, arguments.output_dir, arguments.split, arguments.batch_size)
    print({key: value for key, value in result.items() if key != "confusion_matrix"})
    return result


if __name__ == "__main__":
    run_script(main, EvaluationArguments)
