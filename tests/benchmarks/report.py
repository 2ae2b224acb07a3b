"""Table and plots of what has been measured."""

from pathlib import Path

from matplotlib.figure import Figure

from modeling_mmwfm.figures_mmwfm import save_figure

from .cost import KINDS
from .goals import GOALS, Goal, Value, quartiles
from .rows import ROWS

NOTES = Path(__file__).with_name("notes.md")


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.3g}"


def goal_text(goal: Goal) -> str:
    limits = [
        f"{sign} {number(limit)}" for sign, limit in (("≥", goal.at_least), ("≤", goal.at_most)) if limit is not None
    ]
    return ", ".join(limits) or "-"


def spread(low: float, median: float, high: float) -> str:
    return f"{number(median)} ({number(low)} - {number(high)})"


def goal_lines(results: dict) -> list[str]:
    lines = ["| what | ours | beside | found | goal | reached |", "|---|---|---|---|---|---|"]
    for goal in GOALS:
        value = goal.value(results)
        if value is None:
            lines.append(f"| {goal.what} | | | not measured | {goal_text(goal)} | |")
            continue
        reached = {True: "yes", False: "**no**", None: ""}[goal.reached(value)]
        found = f"{spread(value.low, value.median, value.high)} {goal.unit}"
        names = [name.split("/")[-1] for name in (value.ours, value.peer)]
        lines.append(f"| {goal.what} | {names[0]} | {names[1]} | {found} | {goal_text(goal)} | {reached} |")
    return lines


def series_lines(results: dict) -> list[str]:
    lines = ["| row | call | ms | a second | GFLOP/s | peak memory (MB) |", "|---|---|---|---|---|---|"]
    for row in ROWS:
        for name, series in results.get(row, {}).items():
            low, median, high = quartiles(series)
            times = spread(*(1e3 * series["items"] / rate for rate in (high, median, low)))
            flop = number(quartiles(series, "flop")[1] / 1e9) if series["flop"] else ""
            memory = number(series["peak_bytes"] / 1e6) if "peak_bytes" in series else ""
            lines.append(
                f"| {row} | {name} | {times} | {spread(low, median, high)} {series['unit']} | {flop} | {memory} |"
            )
    return lines


def write_table(content: dict, path: Path) -> Path:
    """`content`: of `results.json`."""
    results = content["rows"]
    missing = [
        f"{name} (needs {lack})" if (lack := row.lacks()) else name
        for name, row in ROWS.items()
        if name not in results
    ]
    other_load = max(content["other_load"].values(), default=0.0)
    lines = [
        "# Speed",
        f"{'; '.join(f'{name}: {value}' for name, value in content['machine'].items())}. Medians over rounds in which the "
        "compared calls take turns, in brackets their quartiles (of ratios: the range that the quartiles of both sides "
        f"span). Busy cores before a row, of others: at most {other_load:.1f}.",
        "## Goals",
        "\n".join(goal_lines(results)),
        "## Measured",
        "\n".join(series_lines(results)),
        *(["## Not measured", ", ".join(missing)] if missing else []),
        NOTES.read_text().strip(),
    ]
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text("\n\n".join(lines) + "\n")
    return unfinished.replace(path)


def plot_speed(results: dict, path: Path) -> Path:
    """Ratios with their spread, as multiples of their goals."""
    found: list[tuple[Goal, Value]] = [
        (goal, value)
        for goal in GOALS
        if goal.unit == "x" and goal.at_least and (value := goal.value(results)) is not None
    ]
    figure = Figure(figsize=(8, 0.32 * len(found) + 1))
    axes = figure.subplots()
    for place, (goal, value) in enumerate(found):
        color = "C0" if goal.reached(value) else "C3"
        median, low, high = (part / goal.at_least for part in value[:3])
        axes.barh(place, median, color=color, xerr=[[max(0, median - low)], [max(0, high - median)]], capsize=2)
        text = f" {number(value.median)} (goal {goal_text(goal)})"
        axes.text(max(median, high), place, text, va="center", fontsize=7)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(right=10 * max(axes.get_xlim()[1], 1))
    axes.set_yticks(range(len(found)), [goal.what for goal, _ in found], fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel="ratio over its goal (red: not reached)")
    return save_figure(figure, path)


def plot_cost(results: dict, path: Path) -> Path:
    """Time per token above, peak memory below, over tokens, batch size and antennas."""
    figure = Figure(figsize=(10, 5.4))
    panels = figure.subplots(2, 3, sharex="col")
    for column, (sweep, label) in enumerate(
        [("tokens", "tokens of a sample"), ("batch", "batch size"), ("antennas", "antennas")]
    ):
        series = results.get(f"cost-{sweep}", {})
        for color, title in enumerate(KINDS.values()):
            points = [point for name, point in series.items() if name.startswith(title)]
            sizes = [point["size"] for point in points]
            rates = [quartiles(point) for point in points]
            times = [1e6 / median for _, median, _ in rates]
            errors = [[1e6 / median - 1e6 / high for _, median, high in rates]]
            errors.append([1e6 / low - 1e6 / median for low, median, _ in rates])
            panels[0, column].errorbar(sizes, times, errors, fmt="o-", markersize=3, color=f"C{color}", label=title)
            memory = [point["peak_bytes"] / 1e6 for point in points]
            panels[1, column].plot(sizes, memory, "o-", markersize=3, color=f"C{color}", label=title)
        if series:
            before = min(point["before_bytes"] for point in series.values()) / 1e6
            panels[1, column].axhline(before, color="gray", linestyle=":", label="before the first call")
            panels[0, column].set_xscale("log", base=2)
            panels[1, column].set_yscale("log")
        panels[0, column].set_ylim(bottom=0)
        panels[1, column].set_xlabel(label)
        for axes in panels[:, column]:
            axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel("time per token (µs)")
    panels[1, 0].set_ylabel("peak memory (MB)")
    panels[1, 0].legend(fontsize=7)
    figure.tight_layout()
    return save_figure(figure, path)
