"""Adapt a pretrained checkpoint to a labelled data set.

    python training_scripts/finetune.py configuration/tasks/rfp.yaml --model runs/small --dataset data/rfp \
        --regime lora --output_dir runs/rfp-lora

Keys of the recipe are the fields of `TaskArguments`, `InputArguments` and `FinetuningArguments`. The same command again
resumes.
"""

from modeling_mmwfm import MMWFMProcessor
from modeling_mmwfm.data_collator_mmwfm import load_splits
from modeling_mmwfm.finetuning_mmwfm import FinetuningArguments, finetune
from modeling_mmwfm.inputs_mmwfm import InputArguments, TaskArguments, adapt_processor, given
from modeling_mmwfm.recipes_mmwfm import run_script


def main(task: TaskArguments, inputs: InputArguments, arguments: FinetuningArguments) -> dict:
    # data
    splits = load_splits(task.dataset)

    # processor
    processor = adapt_processor(MMWFMProcessor.from_pretrained(task.model), inputs, splits["train"])

    # train, save, evaluate
    results = finetune(task.model, processor, splits, arguments, provenance={**vars(task), **given(inputs)})
    for split in ("validation", "test"):
        if split in results:
            numbers = {key: round(value, 4) for key, value in results[split].items() if isinstance(value, float)}
            print(f"{split}: {numbers}")
    return results


if __name__ == "__main__":
    run_script(main, TaskArguments, InputArguments, FinetuningArguments)
