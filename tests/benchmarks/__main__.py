"""Command line: see the package's docstring."""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil
import torch

from modeling_mmwfm.files_mmwfm import write_json

from .models import precision_of
from .report import plot_cost, plot_speed, write_table
from .rows import ROWS
from .scale import MINIATURE, Scale

RESULTS = "results.json"


def describe_machine(scale: Scale) -> dict[str, str]:
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] \
        if cpuinfo.is_file() else []  # fmt: skip
    machine = {"CPU": names[0] if names else platform.processor(), "threads": str(scale.threads)}
    if torch.cuda.is_available():
        machine["GPU"] = torch.cuda.get_device_name()
    return machine | {"torch": torch.__version__, "recipes train on the CPU in": precision_of()}


def read_results(output_dir: Path, scale: Scale) -> dict:
    """What has been measured.

    Raises:
        ValueError: at another scale, or on another machine.
    """
    new = {"scale": scale.as_dict(), "machine": describe_machine(scale), "other_load": {}, "rows": {}}
    path = output_dir / RESULTS
    if not path.is_file():
        return new
    content = json.loads(path.read_text())
    for key in ("scale", "machine"):
        if content[key] != new[key]:
            raise ValueError(f"expected {path} to be of the {key} {new[key]}, found {content[key]}")
    return content


def write_report(content: dict, output_dir: Path):
    write_table(content, output_dir / "table.md")
    plot_speed(content["rows"], output_dir / "speed.png")
    plot_cost(content["rows"], output_dir / "cost.png")


def measure_row(name: str, scale: Scale, output_dir: Path):
    """Measure a row in this process, write it and all that shows it."""
    content = read_results(output_dir, scale)
    torch.set_num_threads(scale.threads)
    content["other_load"][name] = psutil.cpu_percent(0.2) / 100 * psutil.cpu_count()
    content["rows"][name] = ROWS[name].measure(scale)
    write_json(output_dir / RESULTS, content)
    write_report(content, output_dir)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME", help=", ".join(ROWS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="measure rows anew that results.json holds")
    parser.add_argument("--miniature", action="store_true", help="the same code in seconds; the figures mean nothing")
    options = parser.parse_args(arguments)
    scale = MINIATURE if options.miniature else Scale(threads=options.threads)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    try:
        content = read_results(options.output_dir, scale)
    except ValueError as error:
        parser.error(str(error))
    usable = [name for name in options.only if ROWS[name].lacks() is None]
    wanted = [name for name in usable if options.again or name not in content["rows"]]
    if not wanted:
        write_report(content, options.output_dir)
    if len(wanted) == 1:
        measure_row(wanted[0], scale, options.output_dir)
        return
    failed = []
    for name in wanted:
        print(f"measuring {name}", flush=True)
        command = [sys.executable, "-m", "tests.benchmarks", "--output_dir", str(options.output_dir), "--only", name]
        command += ["--threads", str(options.threads), "--again", *["--miniature"] * options.miniature]
        environment = os.environ | {"OMP_NUM_THREADS": str(scale.threads)}
        if subprocess.run(command, env=environment).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"rows that failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
