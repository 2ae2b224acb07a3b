"""Pretrain by masked wireless modeling.

    python training_scripts/pretrain.py configuration/recipes/pretrain-small-paper.yaml --output_dir runs/small

Keys of the recipe are the fields below and those of `PretrainingArguments`; each can be given on the command line.
The same command again resumes.
"""

from dataclasses import dataclass, field

import torch

from modeling_mmwfm import MMWFMConfig, MMWFMFeatureExtractor, MMWFMForPreTraining, MMWFMImageProcessor, MMWFMProcessor
from modeling_mmwfm.data_collator_mmwfm import load_splits
from modeling_mmwfm.pretraining_mmwfm import PretrainingArguments, pretrain
from modeling_mmwfm.recipes_mmwfm import run_script


@dataclass
class DataArguments:
    model: str = field(metadata={"help": "preset folder (new weights) or checkpoint to continue from"})
    iq_dataset: str | None = field(default=None, metadata={"help": "folder or Hub name of a set with `iq`"})
    image_dataset: str | None = field(default=None, metadata={"help": "folder or Hub name of a set with `image`"})
    normalization: str = field(default="dataset", metadata={"choices": ["dataset", "sample", "none"]})
    image_height: int = 224
    image_width: int = 224


def main(data: DataArguments, arguments: PretrainingArguments):
    # data
    names = {"iq": data.iq_dataset, "image": data.image_dataset}
    splits = {family: load_splits(name) for family, name in names.items() if name is not None}
    if not splits:
        raise ValueError("expected `iq_dataset`, `image_dataset` or both, found neither")
    train = {family: parts["train"] for family, parts in splits.items()}
    validation = {family: parts["validation"] for family, parts in splits.items() if "validation" in parts}

    # processor
    processor = MMWFMProcessor(
        MMWFMFeatureExtractor(normalization=data.normalization),
        MMWFMImageProcessor(
            size={"height": data.image_height, "width": data.image_width}, normalization=data.normalization
        ),
    )
    for rows in train.values():
        processor.fit(rows)

    # model
    torch.manual_seed(arguments.seed)
    config = MMWFMConfig.from_pretrained(data.model)
    if config.architectures:
        model = MMWFMForPreTraining.from_pretrained(data.model)
    else:
        model = MMWFMForPreTraining(config)

    # train, save, draw
    pretrain(model, processor, train, validation, arguments, provenance=vars(data))


if __name__ == "__main__":
    run_script(main, DataArguments, PretrainingArguments)
