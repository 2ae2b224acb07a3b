"""The table of an ablation: what each variant of a recipe gains over random weights with the same front end."""

from pathlib import Path

import numpy as np

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
    texts = {}
    for row in rows:
        spread = "" if row["std"] is None else f" ± {row['std']:.3f}"
        texts[row["variant"], row["probe"], row["task"], row["encoder"]] = f"{row['value']:.3f}{spread}"
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    lines = ["| variant | probe | " + " | ".join(tasks) + " |", "|---" * (2 + len(tasks)) + "|"]
    for line in dict.fromkeys((row["variant"], row["probe"]) for row in rows):
        cells = [f"{texts[*line, task, 'pretrained']} ({texts[*line, task, 'random']})" for task in tasks]
        lines.append("| " + " | ".join([*line, *cells]) + " |")
    lines += ["", "Pretrained (random weights with the same front end, mean and spread over seeds), test split."]
    path = output_dir / "table.md"
    unfinished = path.with_name(".table.md")
    unfinished.write_text("\n".join(lines) + "\n")
    return unfinished.replace(path)
