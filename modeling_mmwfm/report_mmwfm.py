"""One self-contained HTML page of a pretraining run and the tasks that were adapted from it."""

import base64
import json
from pathlib import Path

from jinja2 import Environment

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } th, td { padding: .3rem .8rem; border-bottom: 1px solid #ccc; text-align: right }
th:first-child, td:first-child { text-align: left } img { max-width: 100%; vertical-align: top }
.row { display: flex; flex-wrap: wrap; gap: 1rem } .row figure { flex: 1 1 20rem; margin: 0 } figcaption { color: #555 }
"""

PAGE = Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
{{ style }}
</style></head><body>
<h1>{{ title }}</h1>
<h2>Masked wireless modeling</h2>
<p>{{ pretraining.summary }}</p>
{% for name, image in pretraining.images %}<figure><img alt="{{ name }}" src="data:image/png;base64,{{ image }}">
<figcaption>{{ name }}</figcaption></figure>{% endfor %}
<h2>Adapted tasks</h2>
<table><tr><th>task</th><th>regime</th><th>trained parameters</th><th>metric</th><th>validation</th><th>test</th></tr>
{% for run in runs %}<tr><td>{{ run.task }}</td><td>{{ run.regime }}</td><td>{{ "{:,}".format(run.parameters) }}</td>
<td>{{ run.metric }}</td><td>{{ run.validation }}</td><td>{{ run.test }}</td></tr>{% endfor %}</table>
<p>Validation picked the epoch; the test split was used once. Splits are by recording.</p>
<div class="row">{% for run in runs %}<figure><img alt="{{ run.task }} {{ run.regime }}"
src="data:image/png;base64,{{ run.image }}"><figcaption>{{ run.task }}, {{ run.regime }}</figcaption></figure>
{% endfor %}</div>
</body></html>
""")


def embed(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def write_report(pretraining_dir: str | Path, run_dirs: list[str], output: str | Path, title: str) -> Path:
    """
    Args:
        pretraining_dir: output folder of `pretrain.py`.
        run_dirs: output folders of `finetune.py`.
        output: the HTML file.
    """
    pretraining_dir, output = Path(pretraining_dir), Path(output)
    log = json.loads((pretraining_dir / "training_log.json").read_text())
    losses = {key: value for row in log for key, value in row.items() if key.startswith("validation")}
    numbers = ", ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in sorted(losses.items()))
    pretraining = {
        "summary": f"{log[-1]['step']:,} steps, {log[-1]['epoch']:.0f} epochs. At the end: {numbers}.",
        "images": [
            (path.stem.replace("_", " "), embed(path))
            for path in (pretraining_dir / "losses.png", *sorted(pretraining_dir.glob("reconstruction_*.png")))
        ],
    }
    runs = []
    for folder in map(Path, run_dirs):
        run = json.loads((folder / "run.json").read_text())
        results = json.loads((folder / "test_results.json").read_text())
        metric = "mean_error_m" if "mean_error_m" in results["test"] else "mean_class_accuracy"
        figure = "error" if metric == "mean_error_m" else "confusion"
        runs.append(
            {
                "task": Path(run["dataset"]).name,
                "regime": run["regime"],
                "parameters": results["trained_parameters"],
                "metric": metric.replace("_", " "),
                "validation": f"{results['validation'][metric]:.3f}",
                "test": f"{results['test'][metric]:.3f}",
                "image": embed(folder / f"test_{figure}.png"),
            }
        )
    unfinished = output.with_name(f".{output.name}")
    unfinished.write_text(PAGE.render(title=title, style=STYLE, pretraining=pretraining, runs=runs))
    return unfinished.rename(output)
