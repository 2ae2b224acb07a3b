"""Speed of the package beside its peers on the same machine, as ratios of medians, with goals.

    python -m tests.benchmarks --output_dir runs/speed [--only NAME ...] [--threads 2]

Each row runs in a process of its own on a machine that should be idle, and the calls that are compared take turns in
it. Rows that `results.json` already holds are not measured again. Written after each row: `results.json`, `table.md`,
`speed.png` (ratios beside their goals) and `cost.png` (time per token and peak memory).
"""
