"""Turn a checkpoint of the paper's authors into a Hub-ready folder.

    python training_scripts/convert_checkpoint.py --checkpoint FILE.pth --output_dir DIR --head

A LoRA checkpoint also gives a PEFT adapter in DIR/adapter.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from modeling_mmwfm import MMWFMFeatureExtractor, MMWFMImageProcessor, MMWFMProcessor
from modeling_mmwfm.conversion_mmwfm import convert_checkpoint, save_adapter
from modeling_mmwfm.recipes_mmwfm import run_script


@dataclass
class ConversionArguments:
    checkpoint: str = field(metadata={"help": "the authors' .pth file"})
    output_dir: str = field(metadata={"help": "folder to write; must not hold files yet"})
    head: bool = field(default=False, metadata={"help": "keep the head of a fine-tuned checkpoint"})
    pooling: str = field(
        default="cls", metadata={"help": "what the head was trained on", "choices": ["cls", "mean", "mean_std"]}
    )
    lora_alpha: float | None = field(default=None, metadata={"help": "of a LoRA checkpoint; 2 x rank if not given"})
    num_attention_heads: int | None = field(default=None, metadata={"help": "for sizes other than the authors'"})
    decoder_num_attention_heads: int | None = field(default=None, metadata={"help": "likewise, of the decoder"})
    problem_type: str | None = field(
        default=None, metadata={"help": "of the head", "choices": ["single_label_classification", "regression"]}
    )
    label_min: list[float] | None = field(default=None, metadata={"help": "regression: lowest coordinates in metres"})
    label_max: list[float] | None = field(default=None, metadata={"help": "regression: highest coordinates in metres"})


def main(arguments: ConversionArguments):
    output_dir = Path(arguments.output_dir)
    if output_dir.exists() and any(output_dir.iterdir()):
        raise ValueError(f"expected {output_dir} to be absent or empty, found files in it")
    settings = {key: getattr(arguments, key) for key in ("problem_type", "label_min", "label_max")}
    model, lora, left_out = convert_checkpoint(
        arguments.checkpoint,
        head=arguments.head,
        num_attention_heads=arguments.num_attention_heads,
        decoder_num_attention_heads=arguments.decoder_num_attention_heads,
        pooling=arguments.pooling,
        **{key: value for key, value in settings.items() if value is not None},
    )
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=f".{output_dir.name}-") as work:
        folder = Path(work) / "model"
        model.save_pretrained(folder)
        # Their inputs come normalised by task-specific constants, which the files do not hold.
        MMWFMProcessor(
            MMWFMFeatureExtractor(normalization="none", max_antennas=model.config.max_antennas),
            MMWFMImageProcessor(normalization="none"),
        ).save_pretrained(folder)
        if lora:
            rank = next(iter(lora.values())).shape[0 if next(iter(lora)).endswith("lora_A.weight") else 1]
            save_adapter(lora, arguments.lora_alpha or 2.0 * rank, str(output_dir), folder / "adapter")
        if output_dir.exists():
            output_dir.rmdir()
        folder.rename(output_dir)
    print(f"{type(model).__name__} written to {output_dir}" + (", its LoRA adapter to adapter/" if lora else ""))
    if left_out:
        print("not carried over:", ", ".join(left_out))


if __name__ == "__main__":
    run_script(main, ConversionArguments)
