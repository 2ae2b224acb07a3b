"""A data set goes to the Hub and comes back: by name, streamed, and shared between processes."""

import json
import subprocess
import sys

from processing.simulate import simulate
from tests.hub_server import client_environment

PUSH = """
import sys
from datasets import load_dataset
load_dataset(sys.argv[1]).push_to_hub("local/rfp")
"""
LOAD = """
import json
from datasets import load_dataset
from datasets.distributed import split_dataset_by_node

whole = load_dataset("local/rfp")
streams = [split_dataset_by_node(load_dataset("local/rfp", split="train", streaming=True), rank, 2) for rank in (0, 1)]
key = lambda row: [row["recording"], row["start"], row["label"], sum(sum(row["iq"][0], []))]
print(json.dumps({
    "rows": whole.num_rows,
    "labels": whole["train"].features["label"].names,
    "train": [key(row) for row in whole["train"]],
    "streams": [[key(row) for row in stream] for stream in streams],
}))
"""


def run(code, *arguments, environment):
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_simulated_set_comes_back_from_the_hub(hub, tmp_path):
    endpoint, _ = hub
    folder = simulate("rfp", tmp_path / "rfp", samples=40, seed=2)
    run(PUSH, str(folder), environment=client_environment(endpoint, tmp_path / "writer"))
    found = json.loads(run(LOAD, environment=client_environment(endpoint, tmp_path / "reader")).splitlines()[-1])
    assert found["rows"] == {"train": 28, "validation": 4, "test": 8}
    assert found["labels"] == ["bes", "browning", "honors", "meb"]
    first, second = ([tuple(row) for row in rows] for rows in found["streams"])
    assert len(set(first)) == len(first) == len(second) == 14
    assert sorted(first + second) == sorted(tuple(row) for row in found["train"])
