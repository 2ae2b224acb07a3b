"""Measure the frozen features of a checkpoint on a labelled data set: linear probe and nearest neighbours.

    python training_scripts/probe.py --model runs/small --dataset data/rfp --output_dir runs/rfp-probe \
        --pooling mean_std

A recipe may come first; its keys are the fields of `TaskArguments`, `InputArguments` and `ProbeArguments`. The
same command again prints what it found.
"""

from modeling_mmwfm import MMWFMProcessor
from modeling_mmwfm.data_collator_mmwfm import load_splits
from modeling_mmwfm.inputs_mmwfm import InputArguments, TaskArguments, adapt_processor, given
from modeling_mmwfm.probing_mmwfm import ProbeArguments, probe
from modeling_mmwfm.recipes_mmwfm import run_script


def main(task: TaskArguments, inputs: InputArguments, arguments: ProbeArguments) -> dict:
    # data
    splits = load_splits(task.dataset)

    # processor
    processor = adapt_processor(MMWFMProcessor.from_pretrained(task.model), inputs, splits["train"])

    # features, probes, scores
    results = probe(task.model, processor, splits, arguments, provenance={**vars(task), **given(inputs)})
    for numbers in results["per_seed"]:
        kinds = {kind: {key: round(value, 3) for key, value in numbers[kind].items()} for kind in ("linear", "knn")}
        print(f"seed {numbers['seed']}: linear {kinds['linear']}, knn {kinds['knn']}")
    return results


if __name__ == "__main__":
    run_script(main, TaskArguments, InputArguments, ProbeArguments)
