"""The table of an ablation: what each variant of a recipe gains over random weights with the same front end."""

from pathlib import Path

import numpy as np
import pandas as pd

from .files_mmwfm import write_json

METRICS = ("balanced_accuracy", "balanced_accuracy_all", "mean_error_m")  # the first that a probe has


def summarize_probes(variant: str, task: str, found: dict[str, list[dict]]) -> list[dict]:
    """One row for each encoder and probe: mean over the data sets, and spread over seeds of that mean.

    Args:
        found: "pretrained" and "random" -> `probe_results.json` of each data set.
    """
    rows = []
    for encoder, results in found.items():
        for kind in ("linear", "knn"):
            metric = next(name for name in METRICS if name in results[0]["mean"][kind])
            # (data sets, seeds)
            values = np.array([[numbers[kind][metric] for numbers in result["per_seed"]] for result in results])
            over_seeds = values.mean(0)
            rows.append(
                {
                    "variant": variant,
                    "task": task,
                    "encoder": encoder,
                    "probe": kind,
                    "metric": metric,
                    "value": float(over_seeds.mean()),
                    "std": float(over_seeds.std(ddof=1)) if len(over_seeds) > 1 else None,
                    "by_dataset": {
                        Path(result["run"]["dataset"]).name: float(row.mean()) for result, row in zip(results, values)
                    },
                }
            )
    return rows


def write_ablation(rows: list[dict], output_dir: Path) -> Path:
    """`results.json`, and `table.md`: a row for each variant and probe, "pretrained (random)" of each task."""
    write_json(output_dir / "results.json", rows)
    table = pd.DataFrame(rows)
    table["text"] = [
        f"{value:.3f}" if std is None else f"{value:.3f} ± {std:.3f}"
        for value, std in zip(table["value"], table["std"].astype(object).where(table["std"].notna(), None))
    ]
    wide = table.pivot(index=["variant", "probe"], columns=["task", "encoder"], values="text")
    tasks = list(dict.fromkeys(table["task"]))
    lines = ["| variant | probe | " + " | ".join(tasks) + " |", "|---" * (2 + len(tasks)) + "|"]
    for variant, kind in dict.fromkeys(zip(table["variant"], table["probe"])):
        cells = [
            f"{wide.loc[(variant, kind), (t, 'pretrained')]} ({wide.loc[(variant, kind), (t, 'random')]})"
            for t in tasks
        ]
        lines.append(f"| {variant} | {kind} | " + " | ".join(cells) + " |")
    lines += ["", "Pretrained (random weights with the same front end, mean and spread over seeds), test split."]
    path = output_dir / "table.md"
    unfinished = path.with_name(".table.md")
    unfinished.write_text("\n".join(lines) + "\n")
    return unfinished.replace(path)
