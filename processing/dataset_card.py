"""Write the card of a simulated data set from what is in it: `python -m processing.dataset_card data/rfp --output DIR`.

DIR gets README.md, examples.jpg (one example of every class) and, where there is a target, baselines.json: simple models
under the set's own splits and under the paper's protocol, so that what the latter leaks can be seen as a number.
"""

import argparse
import importlib
import json
from pathlib import Path

import numpy as np
from datasets import DatasetDict, load_dataset
from huggingface_hub import DatasetCard, DatasetCardData

from modeling_mmwfm.baselines_mmwfm import run_baselines
from modeling_mmwfm.data_collator_mmwfm import load_splits
from processing.figures import choose_examples, draw_examples
from processing.simulate import TASKS
from processing.writing import RECIPE_FILE

CARD = """---
{front}
---

# {name}

{description}

Simulated; nothing in it was measured. Same seed, same data, whatever the number of processes.

![one example of every class](examples.jpg)

## Make it

```bash
python -m processing.simulate {name} --samples {samples} --seed {seed} --num_proc 2 --output data/{name}
```

{rows:,} rows, {megabytes:.0f} MB on disk as Parquet. Opens with `load_dataset("data/{name}")`.

## Columns and units

{columns}

`recording`, `group`, `split`, `sampling_rate_hz` (0: not known), `center_frequency_hz` (0: not known), `start` (first
sample or column of the window), `parameters` (JSON, below), `source`. Nothing is normalised: that is the part of the
processor that is saved with a model.

## Splits

| split | rows | groups |
|---|---|---|
{splits}

A group is on one side of a split only.

## Simulation parameters

Range over the training rows of this card's set.

| parameter | range |
|---|---|
{parameters}
{baselines}
## Licence

Apache-2.0, as the code that makes it.
"""

BASELINES = """
## Simple baselines, and the leak of the usual protocol

Under *grouped* the set's own test split is predicted from its training split. Under *paper* all rows are pooled and a
random fifth is held out, as in the paper's protocol (the numbers are in baselines.json).

| baseline | {metric}, grouped | {metric}, paper |
|---|---|---|
{rows}
"""


def describe_columns(features, image_values: str | None = None) -> str:
    """One line for the input and one for the target. `image_values`: unit and axes of an image."""
    lines = []
    if "iq" in features:
        antennas, samples, _ = features["iq"].shape
        lines.append(f"`iq`: ({antennas}, {samples}, 2) float32, antennas x samples, I then Q; full scale is 1")
    else:
        channels, height, width = features["image"].shape
        lines.append(f"`image`: ({channels}, {height}, {width}) float32, {image_values}")
    if "label" in features:
        lines.append("`label`: " + ", ".join(features["label"].names))
    if "position" in features:
        lines.append("`position`: metres, one value per axis")
    return "\n\n".join(lines)


def parameter_ranges(rows, most: int = 2000) -> dict[str, str]:
    """Name of every simulation parameter -> its range, or its values where they are names."""
    found = {}
    for text in rows["parameters"][:most]:
        for name, value in json.loads(text).items():
            found.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    ranges = {}
    for name, values in found.items():
        values = [value for value in values if value is not None]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values) and values:
            low, high = min(values), max(values)
            ranges[name] = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
        elif values:
            names = sorted({str(value) for value in values})
            ranges[name] = ", ".join(names[:30]) + (" ..." if len(names) > 30 else "")
    return ranges


def baseline_table(results: dict) -> str:
    metric = "mean_error_m" if "mean_error_m" in next(iter(results["grouped"].values())) else "mean_class_accuracy"
    rows = [
        f"| {name} | {results['grouped'][name][metric]:.3f} | {results['paper'][name][metric]:.3f} |"
        for name in results["grouped"]
    ]
    return BASELINES.format(metric=metric.replace("_", " "), rows="\n".join(rows))


def write_card(folder: str | Path, output_dir: str | Path) -> Path:
    """Card, figure and baselines of a set that `processing.simulate` made.

    Raises:
        ValueError: the folder was not made by `processing.simulate`.
    """
    folder, output_dir = Path(folder), Path(output_dir)
    recipe_path = folder / RECIPE_FILE
    recipe = json.loads(recipe_path.read_text()) if recipe_path.is_file() else {}
    if recipe.get("task") not in TASKS:
        raise ValueError(f"expected a folder made by processing.simulate, found {folder} without such a {RECIPE_FILE}")
    task = TASKS[recipe["task"]]
    dataset: DatasetDict = load_dataset(str(folder))
    output_dir.mkdir(parents=True, exist_ok=True)
    draw_examples(choose_examples(dataset), output_dir / "examples.jpg", task.TASK)
    features, baselines = dataset["train"].features, ""
    if "label" in features or "position" in features:
        results = run_baselines(load_splits(str(folder)))
        (output_dir / "baselines.json").write_text(json.dumps(results, indent=1) + "\n")
        baselines = baseline_table(results)
    # a module is a task of its own, an instance is one of several of its class
    module = task if hasattr(task, "__file__") else importlib.import_module(type(task).__module__)
    family = "iq" if "iq" in features else "spectrogram-or-csi"
    rows = sum(dataset.num_rows.values())
    card = CARD.format(
        front=DatasetCardData(
            license="apache-2.0",
            pretty_name=f"mmwfm {task.TASK} (simulated)",
            tags=["wireless", "simulated", family],
            size_categories="1K<n<10K" if rows < 10_000 else "10K<n<100K",
        ).to_yaml(),
        name=task.TASK,
        description=module.__doc__.strip(),
        samples=recipe["samples"],
        seed=recipe["seed"],
        rows=rows,
        megabytes=sum(path.stat().st_size for path in folder.glob("**/*.parquet")) / 1e6,
        columns=describe_columns(features, getattr(task, "IMAGE_VALUES", None)),
        splits="\n".join(
            f"| {s} | {len(part):,} | {len(np.unique(part['group'][:])):,} |" for s, part in dataset.items()
        ),
        parameters="\n".join(f"| {name} | {shown} |" for name, shown in parameter_ranges(dataset["train"]).items()),
        baselines=baselines,
    )
    DatasetCard(card).save(output_dir / "README.md")
    return output_dir / "README.md"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="folder that processing.simulate made")
    parser.add_argument("--output", type=Path, required=True, help="folder of the card")
    options = parser.parse_args(arguments)
    try:
        print(write_card(options.dataset, options.output))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
