"""Heads that are fitted to frozen features: what scikit-learn computes, folded into one layer; and novelty."""

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoConfig, Trainer, TrainingArguments

from modeling_mmwfm import (
    IQFMConfig,
    IQFMForSequenceClassification,
    MMWFMForPreTraining,
    MMWFMForSequenceClassification,
)
from modeling_mmwfm.adapters_mmwfm import MMWFMAdapters
from modeling_mmwfm.fitted_heads_mmwfm import distance, fit_head, fit_novelty, set_head, set_novelty
from modeling_mmwfm.regimes_mmwfm import head_as_adapter
from tests.small_models import iq, make, write_adapter

NUM_FEATURES = 32
CLASSES, GROUPS = np.arange(64) % 3, np.arange(64) // 2


def clusters(rows, classes, seed=0, apart=1.5, features=NUM_FEATURES, correlated=False):
    """Features of unequal scales and offsets around one centre by class, their classes, and groups of four rows."""
    centers = np.random.default_rng(100).standard_normal((classes, features)) * apart
    rng = np.random.default_rng(seed)
    targets = np.arange(rows) % classes
    spread = rng.standard_normal((rows, features))
    if correlated:  # almost all of it along one direction
        spread = 0.1 * spread + 3 * rng.standard_normal((rows, 1)) * np.ones(features) / features**0.5
    values = centers[targets] + spread
    return (values * np.geomspace(0.1, 10, features) + 7).astype(np.float32), targets, np.arange(rows) // 4


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("rows", [20, 200])  # fewer and more than features
def test_a_head_is_the_pipeline_of_scikit_learn(classes, rows):
    features, targets, groups = clusters(rows, classes, apart=0.3)
    others, _, _ = clusters(50, classes, seed=1, apart=0.3)
    head = fit_head(features, targets, groups)
    linear = LogisticRegression(class_weight="balanced", C=head.inverse_strength, max_iter=10_000, tol=1e-8)
    model = make_pipeline(StandardScaler(), linear).fit(features, targets)
    scores = others @ head.weight.T + head.bias
    np.testing.assert_array_equal(scores.argmax(1), model.predict(others))
    np.testing.assert_allclose(
        softmax(scores, 1), model.predict_proba(others), atol=2e-3
    )  # both stop when little changes
    assert head.weight.shape == (classes, NUM_FEATURES) and head.bias.shape == (classes,)


def test_unequal_classes_count_alike():
    features, targets, groups = clusters(400, 2, apart=0.1)
    kept = (targets == 0) | (np.arange(400) % 20 == 1)
    head = fit_head(features[kept], targets[kept], groups[kept])
    share = ((features @ head.weight.T + head.bias).argmax(1) == 1).mean()
    assert 0.3 < share < 0.7  # an unbalanced one would say 0 of nearly all


def test_absent_classes_never_win():
    features, targets, groups = clusters(60, 3)
    numbers = np.array([1, 4, 6])[targets]
    head = fit_head(features, numbers, groups, num_labels=8)
    far = features * 50 - 1000
    assert softmax(features @ head.weight.T + head.bias, 1)[:, [0, 2, 3, 5, 7]].max() < 1e-6
    for rows in (features, far):
        assert set((rows @ head.weight.T + head.bias).argmax(1)) <= {1, 4, 6}
    two = fit_head(features[targets < 2], numbers[targets < 2], groups[targets < 2], num_labels=8)
    assert set((far @ two.weight.T + two.bias).argmax(1)) <= {1, 4}
    with pytest.raises(ValueError, match=r"expected rows of at least two classes, found \[3\] alone"):
        fit_head(features, np.full(60, 3), groups)


@pytest.mark.parametrize("axes", [1, 3])
def test_positions_are_ridge_regression_in_metres(axes):
    features, _, groups = clusters(80, 2)
    rng = np.random.default_rng(3)
    targets = (features / np.geomspace(0.1, 10, NUM_FEATURES)) @ rng.standard_normal((NUM_FEATURES, axes)) + 40
    targets = targets + 0.1 * rng.standard_normal(targets.shape)
    head = fit_head(features, targets, groups)
    model = make_pipeline(StandardScaler(), Ridge(alpha=1 / head.inverse_strength)).fit(
        features.astype(np.float64), targets
    )
    found = features @ head.weight.T + head.bias
    np.testing.assert_allclose(found, model.predict(features.astype(np.float64)).reshape(found.shape), atol=1e-4)
    assert np.abs(found - targets).max() < 5


def test_features_that_do_not_vary_do_no_harm():
    features, targets, groups = clusters(60, 2)
    still = np.concatenate([features, np.full((60, 3), 5.0, np.float32)], 1)
    still[0, -1] += 1e-6
    head, plain = fit_head(still, targets, groups), fit_head(features, targets, groups)
    np.testing.assert_allclose(head.weight[:, :-3], plain.weight, atol=1e-4)
    moved = still.copy()
    moved[:, -3:] += 1e-3  # by how a GPU rounds
    np.testing.assert_allclose(moved @ head.weight.T + head.bias, still @ head.weight.T + head.bias, atol=0.1)
    assert np.isfinite(list(fit_novelty(still, targets, groups, 2).values())[1]).all()


def test_the_strength_is_chosen_across_groups():
    # A fingerprint of each group that is far stronger than its class: only strength chosen within groups would use it.
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 8)
    targets = groups % 2
    fingerprint = rng.standard_normal((10, 200))[groups]
    weak = 0.5 * (2 * targets - 1)[:, None] + rng.standard_normal((80, 4))
    features = np.concatenate([weak, fingerprint + 0.05 * rng.standard_normal((80, 200))], 1).astype(np.float32)
    alone = np.arange(80)
    assert fit_head(features, targets, groups).inverse_strength != fit_head(features, targets, alone).inverse_strength


@torch.no_grad()
def pooled(model, batch):
    return model.mmwfm(**batch).pooler_output.numpy()


@pytest.fixture(scope="module")
def batch():
    return {"iq_values": iq(64, 1, 32)}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    make(MMWFMForPreTraining).save_pretrained(folder)
    return folder


def fit(base, batch, targets, groups, **settings):
    """(model whose head was fitted to the features of the batch, these features)"""
    model = MMWFMForSequenceClassification.from_pretrained(base, **settings).eval()
    features = pooled(model, batch)
    set_head(model, fit_head(features, targets, groups))
    set_novelty(model, fit_novelty(features, targets, groups, 1 if targets.ndim > 1 else model.config.num_labels))
    return model, features


@pytest.fixture(scope="module")
def fitted(base, batch):
    return fit(base, batch, CLASSES, GROUPS, num_labels=3)[0]


@torch.no_grad()
def test_logits_of_the_model_are_those_of_the_head_in_classes_and_in_metres(base, batch, fitted):
    features = pooled(fitted, batch)
    head = fit_head(features, CLASSES, GROUPS)
    np.testing.assert_allclose(fitted(**batch).logits, features @ head.weight.T + head.bias, atol=1e-4)
    metres = 30 + 10 * features[:, :2].astype(np.float64)
    box = {"problem_type": "regression", "label_min": [0.0, -4.0], "label_max": [80.0, 100.0]}
    head = fit_head(features, metres, GROUPS)
    output = fit(base, batch, metres, GROUPS, num_labels=2, **box)[0](**batch)
    np.testing.assert_allclose(output.logits, features @ head.weight.T + head.bias, atol=1e-3)
    assert output.novelty.shape == (64,) and output.novelty.median() < 1


@pytest.mark.parametrize("classes", [1, 3])
def test_novelty_is_small_for_more_of_the_same_and_large_for_what_is_far(classes):
    features, targets, groups = clusters(400, classes, correlated=True)
    ground = fit_novelty(features, targets, groups, classes)
    others, _, _ = clusters(400, classes, seed=1, correlated=True)
    assert (distance(others, ground) > 1).mean() < 0.05
    sizes = features.std(0)
    rng = np.random.default_rng(2)
    assert (distance(others + 20 * sizes * rng.standard_normal(others.shape), ground) > 1).all()
    # Across the direction along which the rows spread a small step is far, along it a large one is not.
    along = np.geomspace(0.1, 10, NUM_FEATURES) / NUM_FEATURES**0.5
    across = along * np.where(np.arange(NUM_FEATURES) % 2, 1, -1)
    near, far = (distance(features + 3 * step.astype(np.float32), ground).mean() for step in (along, across))
    assert far > 1 and far > 3 * near


def test_a_few_rows_or_one_per_class_or_one_group_are_enough():
    for rows, classes, groups in ((5, 5, None), (3, 2, None), (40, 4, np.zeros(40, int)), (2, 2, np.zeros(2, int))):
        features, targets, own = clusters(rows, classes)
        ground = fit_novelty(features, targets, own if groups is None else groups, classes)
        near, far = distance(features, ground), distance(features * 30, ground)
        assert np.isfinite(near).all() and np.isfinite(far).all() and far.min() > near.max()


def test_rows_held_out_set_the_unit():
    features, targets, groups = clusters(100, 2)
    held_out = clusters(100, 2, seed=5)[0] + 3 * features.std(0)
    wide = distance(held_out, fit_novelty(features, targets, groups, 2, held_out))
    assert np.quantile(wide, 0.99) == pytest.approx(1, abs=1e-3)
    assert distance(held_out, fit_novelty(features, targets, groups, 2)).mean() > wide.mean()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_novelty_is_saved_and_loaded(fitted, batch, tmp_path, dtype):
    expected = fitted(**batch).novelty
    fitted.save_pretrained(tmp_path / "whole")
    assert {"classifier.centers", "classifier.scale", "classifier.basis"} <= set(
        load_file(tmp_path / "whole" / "model.safetensors")
    )
    loaded = MMWFMForSequenceClassification.from_pretrained(tmp_path / "whole", dtype=dtype).eval()
    output = loaded(iq_values=batch["iq_values"].to(dtype))
    assert loaded.config.novelty_rank > 0 and output.novelty.dtype == torch.float32
    tolerance = {torch.float32: 1e-5, torch.float16: 0.02, torch.bfloat16: 0.1}[dtype]
    np.testing.assert_allclose(output.novelty, expected, atol=tolerance)


@torch.no_grad()
def test_novelty_goes_through_adapters_and_merges(base, fitted, batch, tmp_path):
    expected = fitted(**batch)
    adapter = head_as_adapter(copy.deepcopy(fitted))
    adapter.peft_config["default"].base_model_name_or_path = str(base)
    adapter.save_pretrained(tmp_path / "head")
    adapter.config.save_pretrained(tmp_path / "head")
    assert not any("mmwfm." in name for name in load_file(tmp_path / "head" / "adapter_model.safetensors"))

    config = AutoConfig.from_pretrained(tmp_path / "head")
    opened = PeftModel.from_pretrained(
        MMWFMForSequenceClassification.from_pretrained(base, config=config), tmp_path / "head"
    ).eval()
    adapters = MMWFMAdapters.from_pretrained(base)
    adapters.load(tmp_path / "head", "fitted")
    adapters.load(write_adapter(base, tmp_path / "trained", ["iq"], {"num_labels": 2}), "trained")
    for found in (opened(**batch), adapters("fitted", **batch), adapters.merge("fitted")(**batch)):
        np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)
        np.testing.assert_allclose(found.novelty, expected.novelty, atol=1e-4)
    np.testing.assert_allclose(opened.merge_and_unload()(**batch).novelty, expected.novelty, atol=1e-4)
    mixed = adapters(["fitted", "trained"] * 32, **batch)
    np.testing.assert_allclose(mixed.novelty[::2], expected.novelty[::2], atol=1e-4)
    assert mixed.novelty[1::2].isnan().all()
    assert adapters("trained", **batch).novelty is None


def test_an_adapter_that_was_trained_learns_novelty_in_both_of_its_heads(batch):
    lora = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["classifier"], init_lora_weights=False)
    model = get_peft_model(make(MMWFMForSequenceClassification, num_labels=3), lora).eval()
    with torch.no_grad():
        features = model.get_base_model().mmwfm(**batch).pooler_output.numpy()
        set_novelty(model, fit_novelty(features, CLASSES, GROUPS, 3))
        expected = model(**batch).novelty
        assert expected.median() < 1
        np.testing.assert_allclose(model.merge_and_unload()(**batch).novelty, expected, atol=1e-3)


class Rows(torch.utils.data.Dataset):
    def __init__(self, values, labels):
        self.values, self.labels = values, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        return {"iq_values": self.values[row], "labels": int(self.labels[row])}


def test_metrics_of_trainer_see_logits_alone(fitted, batch, tmp_path):
    arguments = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True, label_names=["labels"])
    seen = []
    trainer = Trainer(fitted, arguments, eval_dataset=Rows(batch["iq_values"], CLASSES),
                      compute_metrics=lambda found: seen.append(found.predictions) or {})  # fmt: skip
    trainer.evaluate()
    assert isinstance(seen[0], np.ndarray) and seen[0].shape == (64, 3)


@torch.no_grad()
def test_a_head_that_knows_no_training_rows_gives_none(batch):
    output = make(MMWFMForSequenceClassification)(**batch)
    assert output.novelty is None and "novelty" not in output
    assert not any("centers" in name for name in make(MMWFMForSequenceClassification).state_dict())
    config = IQFMConfig(num_antennas=1, stem_channels=8, stage_channels=[8, 8], stage_depths=[1, 1], hidden_size=16)
    assert IQFMForSequenceClassification(config).eval()(iq_values=iq(2, 1, 64)).novelty is None


def test_the_onnx_graph_of_a_model_with_novelty_gives_its_logits(fitted, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX export is optional")
    from modeling_mmwfm.onnx_mmwfm import ExportArguments, export

    fitted.save_pretrained(tmp_path / "model")
    path = export(ExportArguments(str(tmp_path / "model"), str(tmp_path / "out.onnx")))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_outputs()] == ["logits"]
    values = iq(3, 1, 40, seed=7)
    with torch.no_grad():
        expected = fitted(iq_values=values).logits
    np.testing.assert_allclose(session.run(None, {"iq_values": values.numpy()})[0], expected, atol=1e-4)
