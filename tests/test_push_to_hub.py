"""Folders go to the Hub and come back by name; what should not go there is refused before anything is sent."""

import json
import os
import pickle
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

from modeling_mmwfm import MMWFMProcessor
from modeling_mmwfm.adapters_mmwfm import MMWFMAdapters
from modeling_mmwfm.cards_mmwfm import write_pretraining_card
from modeling_mmwfm.files_mmwfm import write_json
from modeling_mmwfm.finetuning_mmwfm import FinetuningArguments, finetune, load_adapted
from modeling_mmwfm.publishing_mmwfm import check_folder, publish
from processing.dataset_card import write_card
from processing.simulate import simulate
from tests.hub_server import READER_TOKEN, client_environment
from tests.small_models import iq
from tests.small_sets import tiny_pretraining_model, tiny_processor, tone_rows

SCRIPT = Path(__file__).parents[1] / "training_scripts" / "push_to_hub.py"
BASE, ADAPTER, ROWS, HIDDEN = "local/push-base", "local/push-adapter", "local/push-rows", "local/push-hidden"

# Opens everything by its name, as somebody without this package would; argv: file of the input, file of the results.
READER = """
import sys
sys.modules["modeling_mmwfm"] = None
import torch
from datasets import load_dataset
from peft import PeftModel
from transformers import AutoConfig, AutoModelForPreTraining, AutoModelForSequenceClassification, AutoProcessor
from transformers import pipeline

inputs, result, base, adapter, rows, hidden, token = sys.argv[1:]
batch, found = torch.load(inputs), {}
code = {"trust_remote_code": True}

def classify(revision):
    config = AutoConfig.from_pretrained(adapter, revision=revision, **code)
    model = AutoModelForSequenceClassification.from_pretrained(base, config=config, **code)
    model = PeftModel.from_pretrained(model, adapter, revision=revision).eval()
    with torch.no_grad():
        return model(**batch).logits, config.id2label

found["first"], found["labels"] = classify("first")
found["main"], _ = classify("main")
found["base"] = AutoModelForPreTraining.from_pretrained(base, revision="v1", **code).state_dict()
pinned = {"adapter_kwargs": {"revision": "first"}}  # the adapter's, where `revision` is also that of its base
for name, settings in (("native", {}), ("native first", pinned)):
    native = AutoModelForSequenceClassification.from_pretrained(adapter, **settings, **code).eval()
    with torch.no_grad():
        found[name] = native(**batch).logits
found["processor"] = AutoProcessor.from_pretrained(adapter, **code)(iq=torch.zeros(1, 64, 2))["iq_values"].shape
signal = torch.view_as_complex(batch["iq_values"][0].mT.contiguous())
for task in ("signal-classification", "feature-extraction"):
    found[task] = pipeline(task, model=adapter, device="cpu", **code)(signal)
found["pipeline first"] = pipeline(
    "signal-classification", model=adapter, device="cpu", model_kwargs=dict(pinned), **code
)(signal)
found["rows"] = load_dataset(rows)["test"]["iq"][:]
for name, repository, settings in (
    ("absent", "local/push-none", {}),
    ("revision", base, {"revision": "v9"}),
    ("hidden", hidden, {}),
    ("no token", hidden, {"token": False}),
    ("shown", hidden, {"token": token}),
):
    try:
        found[name] = len(AutoModelForPreTraining.from_pretrained(repository, **settings, **code).state_dict())
    except OSError as error:
        found[name] = str(error)
torch.save(found, result)
"""

# The same names given to the tools of the package, and to the page in the browser, which has fewer packages.
TOOLS = """
import sys
sys.modules |= dict.fromkeys(["datasets", "sigmf", "scipy", "sklearn", "evaluate", "h5py", "tensorboard"])
import torch
inputs, result, base, adapter, space = sys.argv[1:]
sys.path.insert(0, space)
import app
from serving import Serving, Signal, find_adapters
batch = torch.load(inputs)
values = torch.view_as_complex(batch["iq_values"][0].mT.contiguous()).numpy()
serving = Serving(base, find_adapters([adapter]))
[prediction] = serving.predict(Signal("x", "iq", values, values.shape[1]))
found = {"space": dict(prediction.values)}
for name in [name for name, module in sys.modules.items() if module is None]:
    del sys.modules[name]
from modeling_mmwfm.analyze import load_model
from modeling_mmwfm.embed import load_encoder
for load in (load_model, load_encoder):
    model, processor = load(adapter)
    with torch.no_grad():
        scores = model(**processor(iq=values)).logits[0].softmax(-1).tolist()
    found[load.__name__] = dict(zip(model.config.id2label.values(), scores))
torch.save(found, result)
"""


def start(environment, *command):
    return subprocess.Popen([sys.executable, *map(str, command)], env=environment, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders as pretraining, adaptation and simulation leave them."""
    work = tmp_path_factory.mktemp("folders")
    base = work / "base"
    tiny_pretraining_model().save_pretrained(base)
    tiny_processor().save_pretrained(base)
    write_pretraining_card(base, [{"step": 1, "validation_iq_loss": 0.5}], {"iq": "tones"})
    (base / "checkpoints").mkdir()
    (base / "checkpoints" / "optimizer.bin").write_bytes(pickle.dumps({}))
    (base / "data").mkdir()
    (base / "data" / "rows.parquet").write_bytes(b"PAR1")
    (base / ".run.json.77").write_text("{")
    splits = {name: tone_rows(8, name, seed) for seed, name in enumerate(("train", "validation", "test"))}
    adapter = work / "adapter"
    settings = dict(num_train_epochs=2, warmup_epochs=1, batch_size=4, lora_rank=2, base_learning_rate=0.1)
    processor = tiny_processor()
    processor.feature_extractor.normalization = "none"  # other than the base's
    finetune(str(base), processor, splits, FinetuningArguments(output_dir=str(adapter), **settings))
    rows = simulate("rfp", work / "rows", samples=40, seed=2)
    write_card(rows, rows)
    return {"base": base, "adapter": adapter, "rows": rows}


@pytest.fixture(scope="module")
def returned(hub, folders, tmp_path_factory):
    """(what a fresh process found, the same offline, what goes in, `HfApi` of the Hub)"""
    endpoint, _ = hub
    work = tmp_path_factory.mktemp("returned")
    batch = {"iq_values": iq(6, 1, 128)}
    torch.save(batch, work / "inputs.pt")
    writer = client_environment(endpoint, work / "writer", READER_TOKEN)
    script = start(writer, SCRIPT, folders["base"], "--repo_id", BASE, "--tag", "v1")
    api = HfApi(endpoint, token=READER_TOKEN)
    with pytest.MonkeyPatch.context() as patch:
        online(patch)
        patch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        patch.setenv("HF_TOKEN", READER_TOKEN)
        for line in ([folders["rows"], ROWS, "--repo_type", "dataset"], [folders["base"], HIDDEN, "--private"]):
            folder, name, *options = map(str, line)
            patch.setattr("sys.argv", [str(SCRIPT), folder, "--repo_id", name, *options])
            runpy.run_path(str(SCRIPT), run_name="__main__")
        finish(script)
        publish(folders["adapter"], ADAPTER, tag="first", base_model=BASE, api=api)
        changed = work / "changed"  # a second version, with other weights
        shutil.copytree(folders["adapter"], changed)
        scale_head(changed, 2)
        publish(changed, ADAPTER, base_model=BASE, api=api)
    names = ["-c", READER, work / "inputs.pt", work / "result.pt", BASE, ADAPTER, ROWS, HIDDEN, READER_TOKEN]
    reader = client_environment(endpoint, work / "reader", "anyone")
    found = []
    for environment in (reader, {**reader, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}):
        finish(start(environment, *names))
        found.append(torch.load(work / "result.pt", weights_only=False))
    return *found, batch, api


def scale_head(adapter: Path, factor: float):
    state = load_file(adapter / "adapter_model.safetensors")
    state = {key: value * factor if "classifier" in key else value for key, value in state.items()}
    save_file(state, adapter / "adapter_model.safetensors")


def online(patch):
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


@pytest.mark.parametrize("state", [0, 1], ids=["fresh cache", "offline"])
def test_models_adapters_and_rows_come_back_by_name(returned, folders, state):
    found, batch = returned[state], returned[2]
    adapted = load_adapted(folders["adapter"])
    with torch.no_grad():
        expected = adapted(**batch).logits
    assert torch.equal(found["first"], expected) and torch.equal(found["native first"], expected)
    assert expected.abs().max() > 0.01
    assert torch.equal(found["main"], 2 * expected)  # a head of twice the weights
    assert torch.equal(found["native"], 2 * expected)
    assert found["labels"] == {0: "negative", 1: "positive"}
    state_dict = tiny_pretraining_model().state_dict()
    assert found["base"].keys() == state_dict.keys()
    assert all(torch.equal(value, found["base"][key]) for key, value in state_dict.items())
    assert len(found["rows"]) == 8 and np.asarray(found["rows"]).shape[1:] == (1, 512, 2)
    assert found["processor"] == (1, 1, 2, 64)


@pytest.mark.parametrize("state", [0, 1], ids=["fresh cache", "offline"])
def test_pipelines_take_an_adapter_by_name(returned, folders, state):
    """With its own head, labels and processor, where transformers would take those of the base."""
    found, batch = returned[state], returned[2]
    adapted, processor = load_adapted(folders["adapter"]), MMWFMProcessor.from_pretrained(folders["adapter"])
    inputs = processor(iq=torch.view_as_complex(batch["iq_values"][0].mT.contiguous()))
    with torch.no_grad():
        logits = adapted(**inputs).logits[0]
        features = adapted.base_model.model.mmwfm(**inputs).pooler_output[0].tolist()
    for name, factor in (("signal-classification", 2), ("pipeline first", 1)):  # now a head of twice the weights
        answer = {entry["label"]: entry["score"] for entry in found[name]}
        scores = (factor * logits).softmax(-1).tolist()
        assert answer == pytest.approx(dict(zip(("negative", "positive"), scores)), abs=1e-5)
    assert found["feature-extraction"] == pytest.approx(features, abs=1e-5)


def test_tools_and_the_page_take_names(returned, hub, folders, tmp_path):
    pytest.importorskip("gradio")
    batch = returned[2]
    torch.save(batch, tmp_path / "inputs.pt")
    space = SCRIPT.parent / "space"
    names = ["-c", TOOLS, tmp_path / "inputs.pt", tmp_path / "result.pt", BASE, ADAPTER, space]
    environment = client_environment(hub[0], tmp_path / "cache") | {"PYTHONPATH": str(SCRIPT.parents[1])}
    finish(start(environment, *names))
    adapted, processor = load_adapted(folders["adapter"]), MMWFMProcessor.from_pretrained(folders["adapter"])
    with torch.no_grad():
        logits = adapted(**processor(iq=torch.view_as_complex(batch["iq_values"][0].mT.contiguous()))).logits[0]
    expected = dict(zip(("negative", "positive"), (2 * logits).softmax(-1).tolist()))  # a head of twice the weights
    for tool, scores in torch.load(tmp_path / "result.pt").items():
        assert scores == pytest.approx(expected, abs=1e-5), tool


def test_wrong_names_revisions_and_tokens_are_named(returned):
    found, offline, _, _ = returned
    assert "local/push-none" in found["absent"] and "not a valid model identifier" in found["absent"]
    assert "v9 is not a valid git identifier" in found["revision"]
    assert HIDDEN in found["hidden"] and "private repository" in found["hidden"] and "token" in found["hidden"]
    assert HIDDEN in found["no token"] and "private repository" in found["no token"]
    assert isinstance(found["shown"], int) and offline["shown"] == found["shown"]
    assert "couldn't find them in the cached files" in offline["absent"]


def test_only_what_belongs_there_is_sent(returned, folders, monkeypatch):
    online(monkeypatch)
    api = returned[3]
    base = set(api.list_repo_files(BASE))
    assert {"README.md", "config.json", "model.safetensors", "modeling_mmwfm.py", "processor_config.json"} <= base
    assert not [name for name in base if "/" in name or name.startswith(".")]
    assert api.repo_info(HIDDEN).private and not api.repo_info(BASE).private
    local = str(folders["base"])
    for name in ("adapter_config.json", "run.json", "README.md"):
        assert local in (folders["adapter"] / name).read_text()
        sent = Path(api.hf_hub_download(ADAPTER, name, cache_dir=folders["base"].parent / "cache")).read_text()
        assert BASE in sent and str(folders["base"].parent) not in sent
    assert f'PeftModel.from_pretrained(base, "{ADAPTER}")' in sent


def test_where_something_lay_is_not_published(folders, tmp_path):
    folder = shutil.copytree(folders["base"], tmp_path / "folder")
    write_json(folder / "run.json", {"datasets": {"iq": str(tmp_path / "tones")}, "seed": 0})
    (tmp_path / "tones").mkdir()
    (folder / "README.md").write_text((folder / "README.md").read_text() + f"- iq: {tmp_path / 'tones'}\n")
    files = check_folder(folder, "local/x").files
    assert json.loads(files["run.json"]) == {"datasets": {"iq": "tones"}, "seed": 0}
    assert b"- iq: tones\n" in files["README.md"]
    assert isinstance(files["config.json"], Path)


@torch.no_grad()
def test_adapters_on_one_encoder_are_loaded_by_name(returned, folders, hub, tmp_path, monkeypatch):
    online(monkeypatch)
    *_, batch, _ = returned
    here = {"endpoint": hub[0], "token": READER_TOKEN, "cache_dir": tmp_path}
    adapters = MMWFMAdapters.from_pretrained(folders["base"])
    assert adapters.load(ADAPTER, revision="first", **here) == "push-adapter"
    adapters.load(ADAPTER, "doubled", **here)
    expected = load_adapted(folders["adapter"])(**batch).logits
    assert torch.equal(adapters("push-adapter", **batch).logits, expected)
    assert torch.equal(adapters("doubled", **batch).logits, 2 * expected)
    for name, settings in (("local/push-none", {}), (ADAPTER, {"revision": "v9"}), (BASE, {})):
        with pytest.raises(ValueError, match=f"{name}"):
            adapters.load(name, "wrong", **here, **settings)
    assert adapters.names == ["push-adapter", "doubled"]


def test_an_interrupted_upload_leaves_nothing_and_goes_on(hub, folders, tmp_path, monkeypatch):
    online(monkeypatch)
    (endpoint, server), name = hub, "local/push-interrupted"
    api = HfApi(endpoint, token="anyone")
    folder = shutil.copytree(folders["adapter"], tmp_path / "adapter")
    scale_head(folder, 3)  # weights that the Hub has not seen
    api.create_repo("local/push-any", exist_ok=True)
    (server / "failures").write_text("1 400")
    with pytest.raises(ValueError, match="push-interrupted.*Error while uploading(.|\n)*same command"):
        publish(folder, name, base_model="local/push-any", api=api)
    assert api.list_repo_files(name) == []
    (server / "failures").write_text("1 503")  # which the client itself tries again
    address = publish(folder, name, base_model="local/push-any", api=api)
    assert (server / "failures").read_text() == "0 503"
    assert "adapter_model.safetensors" in api.list_repo_files(name)
    assert publish(folder, name, base_model="local/push-any", api=api) == address  # nothing new, no new commit


def test_an_update_is_one_commit_without_the_old_weights(hub, folders, tmp_path, monkeypatch):
    online(monkeypatch)
    api, name = HfApi(hub[0], token="anyone"), "local/push-updated"
    rows = shutil.copytree(folders["rows"], tmp_path / "rows")
    publish(rows, name, api=api, tag="v1")
    old = [name for name in api.list_repo_files(name, repo_type="dataset") if name.endswith(".parquet")]
    shutil.move(rows / old[0], rows / f"new-{old[0]}")
    publish(rows, name, api=api, revision="next", tag="v2")
    for revision, first in (("main", old[0]), ("v1", old[0]), ("next", f"new-{old[0]}"), ("v2", f"new-{old[0]}")):
        found = api.list_repo_files(name, repo_type="dataset", revision=revision)
        assert sorted(f for f in found if f.endswith(".parquet")) == sorted([first, *old[1:]])
    with pytest.raises(ValueError, match="`tag`: expected a new tag, found v1"):
        publish(rows, name, api=api, tag="v1")
    with pytest.raises(ValueError, match="`private`.*public"):
        publish(rows, name, api=api, private=True)
    with pytest.raises(ValueError, match="`repo_type`: expected dataset"):
        publish(rows, name, api=api, repo_type="model")


def test_who_may_not_write_is_told_so(hub, folders, monkeypatch):
    online(monkeypatch)
    with pytest.raises(ValueError, match="401(.|\n)*HF_TOKEN"):
        publish(folders["base"], "local/push-nobody", api=HfApi(hub[0], token=False))
    with pytest.raises(ValueError, match="`base_model`: expected a model on the Hub, found none named local/nothing"):
        api = HfApi(hub[0], token="anyone")
        publish(folders["adapter"], "local/push-orphan", base_model="local/nothing", api=api)
    with pytest.raises(ValueError, match="local/push-base"):
        publish(folders["base"], "local/push-base", api=HfApi("http://127.0.0.1:9", token="anyone"))


def card(folder: Path, **changes):
    """Change fields of a card; None takes a field away."""
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    data = yaml.safe_load(head) | changes
    data = {key: value for key, value in data.items() if value is not None}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(data)}---\n{body}")


def index(folder: Path, **changes):
    """Change parts of a card's first result."""
    data = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])["model-index"]
    data[0]["results"][0] |= changes
    card(folder, **{"model-index": data})


def metric(folder: Path, **changes):
    data = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])["model-index"]
    first, *others = data[0]["results"][0]["metrics"]
    index(folder, metrics=[first | changes, *others])


def rewrite(name: str, content: str | bytes):
    def change(folder: Path):
        content_bytes = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(content_bytes)

    return change


CASES = {
    "no card": ("base", lambda f: (f / "README.md").unlink(), "README.md: expected the folder's card"),
    "rows without card": ("rows", lambda f: (f / "README.md").unlink(), "README.md: .*processing.dataset_card"),
    "no metadata": ("base", rewrite("README.md", "# A model\n"), "README.md: expected `key: value` lines"),
    "broken metadata": ("base", rewrite("README.md", "---\nlicense: [\n---\n"), "README.md: expected YAML"),
    "no licence": ("base", lambda f: card(f, license=None), "README.md: `license`: .*found None"),
    "unknown licence": ("base", lambda f: card(f, license="free"), "README.md: `license`: .*found 'free'"),
    "unnamed licence": ("base", lambda f: card(f, license="other"), "README.md: `license_name`"),
    "no tags": ("base", lambda f: card(f, tags=None), "README.md: `tags`"),
    "other library": ("base", lambda f: card(f, library_name="timm"), "`library_name`: expected transformers"),
    "local base": ("adapter", lambda f: None, "README.md: `base_model`: expected the Hub name"),
    "adapter without licence": ("adapter", lambda f: card(f, license=None), "README.md: `license`: .*found None"),
    "rows without licence": ("rows", lambda f: card(f, license=None), "README.md: `license`: .*found None"),
    "rows without tags": ("rows", lambda f: card(f, tags=[]), "README.md: `tags`"),
    "index of no task": ("adapter", lambda f: index(f, task={}), "`task.type`: expected text"),
    "index of no data set": ("adapter", lambda f: index(f, dataset={"type": "x"}), "`dataset.name`: expected text"),
    "index of no metric": ("adapter", lambda f: index(f, metrics=[]), "`results.metrics`: expected a list"),
    "broken index": ("base", lambda f: card(f, **{"model-index": [{"name": "x"}]}), "`model-index.results`"),
    "text for a number": ("adapter", lambda f: metric(f, value="0.9"), "`mean_class_accuracy`: expected a finite"),
    "not a number": ("adapter", lambda f: metric(f, value=float("nan")), "`mean_class_accuracy`: expected a finite"),
    "better number": ("adapter", lambda f: metric(f, value=0.99), r"expected [\d.]+ as in test_\w+.json, found 0.99"),
    "unknown metric": ("adapter", lambda f: metric(f, type="auroc"), "metric `auroc` of split `test`.*test_results"),
    "no results": (
        "adapter",
        lambda f: [path.unlink() for path in f.glob("*_*s.json") if "log" not in path.name],
        "found none in no results file",
    ),
    "pickle": ("base", rewrite("extra.pkl", pickle.dumps([1])), "extra.pkl: .*pickle"),
    "pickle in disguise": ("base", rewrite("notes.md", pickle.dumps([1])), "notes.md: .*a pickle"),
    "torch weights": ("base", lambda f: torch.save({}, f / "notes.txt"), "notes.txt: .*zip archive"),
    "script": ("base", rewrite("run", "#!/bin/sh\n"), "run: .*a script"),
    "objects": ("base", lambda f: np.savez(f / "a.npz", np.array([{}])), "a.npz: .*without objects"),
    "foreign code": ("base", rewrite("setup.py", "import os\n"), "setup.py: expected no Python file"),
    "missing code": ("base", lambda f: (f / "modeling_mmwfm.py").unlink(), "modeling_mmwfm.py: expected the code"),
    "missing weights": ("base", lambda f: (f / "model.safetensors").unlink(), "expected model.safetensors"),
    "cut weights": (
        "base",
        lambda f: os.truncate(f / "model.safetensors", 1000),
        "model.safetensors: expected a whole safetensors",
    ),
    "cut JSON": ("base", rewrite("run.json", "{"), "run.json: expected JSON"),
    "two kinds": ("adapter", rewrite("model.safetensors", ""), "adapter or a model, found the weights of both"),
    "no adapter weights": (
        "adapter",
        lambda f: (f / "adapter_model.safetensors").unlink(),
        "expected adapter_model.safetensors",
    ),
    "cut rows": ("rows", lambda f: os.truncate(next(f.glob("*.parquet")), 100), "parquet: expected a whole parquet"),
    "absent split": (
        "rows",
        lambda f: card(f, configs=[{"config_name": "default", "data_files": "none-*.parquet"}]),
        "`load_dataset` opens",
    ),
    "nothing known": ("rows", lambda f: [path.unlink() for path in f.glob("*.parquet")], "none of them"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_folder_that_is_not_right_is_refused_before_anything_is_sent(folders, tmp_path, case):
    kind, damage, message = CASES[case]
    folder = shutil.copytree(folders[kind], tmp_path / "folder")
    settings = {"base_model": "local/base"} if kind == "adapter" and case != "local base" else {}
    if not settings and case != "local base":
        check_folder(folder, "local/x")
    damage(folder)
    with pytest.raises(ValueError, match=message):
        check_folder(folder, "local/x", **settings)


def test_every_reported_number_is_that_of_its_split(folders, tmp_path):
    folder = shutil.copytree(folders["adapter"], tmp_path / "folder")
    results = {"validation": {"mean_class_accuracy": 0.9}, "test": {"mean_class_accuracy": 0.25}}
    for path in folder.glob("*_metrics.json"):
        path.unlink()
    write_json(folder / "test_results.json", results)
    data = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])["model-index"]
    data[0]["results"][0]["metrics"] = [{"type": "mean_class_accuracy", "value": 0.25}]
    card(folder, **{"model-index": data})
    check_folder(folder, "local/x", "local/base")
    metric(folder, value=0.9)  # is that of the validation split
    with pytest.raises(ValueError, match="of split `test`: expected 0.25 as in test_results.json, found 0.9"):
        check_folder(folder, "local/x", "local/base")


def test_a_number_of_another_data_set_is_no_number_of_this_one(folders, tmp_path):
    folder = shutil.copytree(folders["base"], tmp_path / "folder")
    values = {"ism433": 0.9, "csi-har": 0.8}
    write_json(folder / "results.json", {name: {"test": {"accuracy": value}} for name, value in values.items()})

    def report(values):
        parts = {"task": {"type": "signal-classification"}}
        results = [
            {**parts, "dataset": {"type": name, "name": name, "split": "test"}, "metrics": [metric]}
            for name, metric in ((name, {"type": "accuracy", "value": value}) for name, value in values.items())
        ]
        card(folder, **{"model-index": [{"name": "x", "results": results}]})

    report(values)
    check_folder(folder, "local/x")
    report({"ism433": 0.9, "csi-har": 0.9})
    with pytest.raises(
        ValueError, match="metric `accuracy` of split `test`: expected 0.8 as in results.json, found 0.9"
    ):
        check_folder(folder, "local/x")


@pytest.mark.parametrize("name", ["nouser", "a/b/c", "a/..", "user/with space"])
def test_wrong_repository_names_are_refused(folders, name):
    with pytest.raises(ValueError):
        check_folder(folders["base"], name)


def test_a_local_folder_is_no_base_on_the_hub(folders, monkeypatch):
    monkeypatch.chdir(folders["base"].parents[1])
    local = "/".join(folders["base"].parts[-2:])  # looks like user/name, and is there
    with pytest.raises(ValueError, match="`base_model`: expected a Hub name"):
        check_folder(folders["adapter"], "local/x", local)
