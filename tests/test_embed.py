"""Embeddings of a folder of recordings."""

import copy
import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset

from modeling_mmwfm import (
    MMWFMFeatureExtractor,
    MMWFMForPreTraining,
    MMWFMForSequenceClassification,
    MMWFMImageProcessor,
    MMWFMProcessor,
)
from modeling_mmwfm import embed as embed_module
from modeling_mmwfm.embed import EmbeddingArguments, embed, main
from modeling_mmwfm.finetuning_mmwfm import load_adapted
from modeling_mmwfm.recordings_mmwfm import open_recording
from tests.small_models import RELEASED, make
from tests.test_adapters import write_adapter

ROOT = Path(__file__).parents[1]
LENGTHS = [200, 64, 150, 30, 128, 90, 77]


@pytest.fixture(scope="module")
def processor():
    return MMWFMProcessor(
        MMWFMFeatureExtractor(normalization="none"), MMWFMImageProcessor(size={"height": 16, "width": 16})
    )


@pytest.fixture(scope="module")
def model():
    return make(MMWFMForSequenceClassification, num_labels=3)


@pytest.fixture(scope="module")
def checkpoint(model, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_recordings(folder):
    """Seven raw recordings and an image; every second has two antennas."""
    (folder / "deep").mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for number, length in enumerate(LENGTHS):
        values = rng.normal(size=(length, 2 * (1 + number % 2))).astype("<f4")
        values.tofile(folder / "deep" / f"{number}.cf32")
        antennas = str(1 + number % 2)
        rows.append({"file_name": f"deep/{number}.cf32", "label": f"class {number % 3}", "num_antennas": antennas})
    np.save(folder / "image.npy", rng.normal(size=(1, 20, 24)))
    rows.append({"file_name": "image.npy", "label": "picture", "num_antennas": "1"})
    write_table(folder, rows)
    return folder


def write_table(folder, rows):
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def recordings(tmp_path):
    return write_recordings(tmp_path / "recordings")


def arguments(checkpoint, output, **options):
    settings = {"window_length": 64, "hop": 40, "batch_size": 2, "recordings_per_shard": 3, **options}
    return EmbeddingArguments(model=str(checkpoint), output=str(output), **settings)


def expected_rows(folder, model, processor):
    """(file, start, label, embedding) one window at a time."""
    for number, length in enumerate(LENGTHS):
        name = f"deep/{number}.cf32"
        values = open_recording(folder / name, num_antennas=1 + number % 2).window(0, length)
        starts = [*range(0, max(length - 64, 0), 40), max(length - 64, 0)]
        for start in starts:
            with torch.no_grad():
                output = model.mmwfm(**processor(iq=values[:, start : start + 64]))
            yield name, start, f"class {number % 3}", output.pooler_output[0]
    with torch.no_grad():
        output = model.mmwfm(**processor(images=np.load(folder / "image.npy")))
    yield "image.npy", 0, "picture", output.pooler_output[0]


def check(output, folder, model, processor):
    rows = load_dataset(str(output), split="train")
    expected = list(expected_rows(folder, model, processor))
    found = list(zip(rows["file_name"], rows["start"], rows["label"]))
    assert found == [entry[:3] for entry in expected]
    torch.testing.assert_close(
        torch.tensor(np.stack(rows.with_format("numpy")["embedding"][:])),
        torch.stack([entry[3] for entry in expected]),
        atol=1e-5,
        rtol=1e-5,
    )


def test_two_processes_share_the_shards(recordings, checkpoint, model, processor, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "modeling_mmwfm.embed", recordings, "--model", checkpoint, "--output", tmp_path / "out"]
    command += ["--window_length", "64", "--hop", "40", "--recordings_per_shard", "3"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        map(str, command), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    shards = [f"train-0000{number}-of-00003.parquet" for number in range(3)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["embedding.json", *shards]
    assert not (tmp_path / ".out.unfinished").exists()
    check(tmp_path / "out", recordings, model, processor)


def test_an_interrupted_run_goes_on_with_the_missing_shards(
    recordings, checkpoint, model, processor, tmp_path, monkeypatch
):
    written, write_shard = [], embed_module.write_shard

    def interrupted(path, *rest):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        write_shard(path, *rest)

    monkeypatch.setattr(embed_module, "write_shard", interrupted)
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        embed(recordings, arguments(checkpoint, output))
    assert not output.exists() and len(written) == 2
    monkeypatch.setattr(
        embed_module, "write_shard", lambda path, *rest: (written.append(path), write_shard(path, *rest))
    )
    embed(recordings, arguments(checkpoint, output))
    assert len(written) == 3 and written[2].name == "train-00002-of-00003.parquet"
    check(output, recordings, model, processor)
    embed(recordings, arguments(checkpoint, output, batch_size=5))
    assert len(written) == 3
    with pytest.raises(ValueError, match="expected .*out to be absent, empty or of the same"):
        embed(recordings, arguments(checkpoint, output, hop=41))


def test_an_adapter_of_a_model_of_spectra_and_centred_carriers(recordings, processor, tmp_path):
    """The pooled features have a mean and a standard deviation, twice the width."""
    processor = copy.deepcopy(processor)
    processor.feature_extractor.center_carrier = True
    make(MMWFMForPreTraining, **RELEASED).save_pretrained(tmp_path / "base")
    folder = write_adapter(tmp_path / "base", tmp_path / "adapter", ["iq", "image"], {"num_labels": 3})
    processor.save_pretrained(folder)
    output = embed(recordings, arguments(folder, tmp_path / "out"))
    check(output, recordings, load_adapted(folder).get_base_model(), processor)


def test_a_folder_without_a_table_is_taken_whole(checkpoint, tmp_path):
    (tmp_path / "in").mkdir()
    values = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32).view(np.complex64)
    np.save(tmp_path / "in" / "b.npy", values)
    (tmp_path / "in" / "a.cf32").write_bytes(values[0].tobytes())
    main([str(tmp_path / "in"), "--model", str(checkpoint), "--output", str(tmp_path / "out")])
    rows = load_dataset(str(tmp_path / "out"), split="train")
    assert rows["file_name"][:] == ["a.cf32", "b.npy"] and rows["start"][:] == [0, 0]
    assert rows.column_names == ["file_name", "start", "embedding"]


def test_wrong_folders_are_refused_before_anything_is_written(recordings, checkpoint, tmp_path):
    output = tmp_path / "out"
    with pytest.raises(ValueError, match="expected a folder of recordings"):
        embed(tmp_path / "absent", arguments(checkpoint, output))
    table = (recordings / "metadata.csv").read_text()
    for text, message in [
        ("name\nimage.npy\n", "expected a column file_name"),
        ("file_name,embedding\nimage.npy,1\n", "no \\('start', 'embedding'\\)"),
        ("file_name\n", "at least one row"),
        ("file_name,label\nimage.npy\n", "expected 2 cells in every row .* row 1"),
        ("file_name\n../x.npy\n", "expected file names inside"),
        ("file_name,num_antennas\nimage.npy,two\n", "expected num_antennas of .*image.npy as a number"),
        (table.replace("deep/1.cf32,class 1,2", "deep/1.cf32,class 1,3"), "expected whole samples of 24 bytes"),
    ]:
        (recordings / "metadata.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            embed(recordings, arguments(checkpoint, output))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="embed: error: expected recordings"):
        main([str(tmp_path / "empty"), "--model", str(checkpoint), "--output", str(output)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "recordings"]
