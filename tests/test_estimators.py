"""The encoder in scikit-learn's manner: its checks, its tools, every kind of recording, and what is saved."""

import csv
import json
import os

import numpy as np
import pytest
import sklearn
import torch
from huggingface_hub import HfApi
from peft import PeftModel
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from transformers import AutoConfig, AutoModelForSequenceClassification, pipeline

from modeling_mmwfm import (
    MMWFMFeatureExtractor,
    MMWFMForPreTraining,
    MMWFMForSequenceClassification,
    MMWFMImageProcessor,
    MMWFMModel,
    MMWFMProcessor,
)
from modeling_mmwfm import estimators_mmwfm as estimators
from modeling_mmwfm.analysis_mmwfm import Waterfall
from modeling_mmwfm.analyze import AnalysisArguments, analyze
from modeling_mmwfm.cards_mmwfm import write_pretraining_card
from modeling_mmwfm.embed import load_encoder
from modeling_mmwfm.estimators_mmwfm import MMWFMClassifier, MMWFMEmbedder, MMWFMRegressor
from modeling_mmwfm.finetuning_mmwfm import load_adapted
from modeling_mmwfm.publishing_mmwfm import publish
from processing.wifi_csi import read_capture
from tests.hub_server import READER_TOKEN, client_environment
from tests.processing.test_wifi_csi import esp32_file, random_csi, times
from tests.small_models import make, write_adapter
from tests.small_sets import tone_rows
from tests.test_csi import SMALL_VIEW
from tests.test_pipeline import write_sigmf
from tests.test_push_to_hub import finish, online, start

GROUPS = np.arange(48) // 4


def recordings(count=48, seed=0):
    """Tones of positive or of negative frequency in noise, of unequal lengths: complex (T,) and (2, T)."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        samples = 48 + number
        tone = np.exp(2j * np.pi * ((0.1 if number % 2 else -0.1) * np.arange(samples) + rng.random()))
        tone = tone + 0.3 * (rng.standard_normal(samples) + 1j * rng.standard_normal(samples))
        found.append(np.stack([tone, 1j * tone]) if number % 3 == 0 else tone)
    return found


X, Y = recordings(), np.arange(48) % 2


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("estimators") / "base"
    make(MMWFMForPreTraining).save_pretrained(folder)
    image_processor = MMWFMImageProcessor(size={"height": 16, "width": 16})
    extractor = MMWFMFeatureExtractor(normalization="none", n_fft=32, hop_length=32)
    MMWFMProcessor(extractor, image_processor, csi_processor=SMALL_VIEW).save_pretrained(folder)
    write_pretraining_card(folder, [{"step": 1, "validation_iq_loss": 0.5}], {"iq": "tones"})
    return str(folder)


@pytest.fixture
def forwards(monkeypatch):
    """Rows of each forward of the encoder from here on, with nothing kept from before."""
    monkeypatch.setattr(estimators, "_kept", estimators.OrderedDict())
    counts, forward = [], MMWFMModel.forward

    def counting(self, *args, **inputs):
        counts.append(len(next(value for value in inputs.values() if value is not None)))
        return forward(self, *args, **inputs)

    monkeypatch.setattr(MMWFMModel, "forward", counting)
    return counts


@pytest.mark.parametrize("estimator", [MMWFMEmbedder, MMWFMClassifier, MMWFMRegressor])
@pytest.mark.parametrize(
    "check",
    [
        "check_do_not_raise_errors_in_init_or_set_params",
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_estimator_tags_renamed",
        "check_estimators_unfitted",
        "check_get_params_invariance",
        "check_mixin_order",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_set_params",
        "check_valid_tag_types",
    ],
)
def test_checks_of_scikit_learn_that_ask_for_no_table(check, estimator):
    getattr(estimator_checks, check)(estimator.__name__, estimator())


def test_what_is_not_fitted_says_so_alone_and_in_a_pipeline(base):
    for estimator in (MMWFMClassifier(base), MMWFMRegressor(base)):
        calls = [estimator.predict, estimator.novelty, make_pipeline(estimator).predict]
        for call in [*calls, *([estimator.predict_proba] if hasattr(estimator, "predict_proba") else [])]:
            with pytest.raises(NotFittedError):
                call(X)
        with pytest.raises(NotFittedError):
            estimator.save_pretrained("nowhere")
    fitted = MMWFMClassifier(base).fit(X, Y)
    with pytest.raises(NotFittedError):
        clone(fitted).predict(X)


def test_features_are_those_of_each_recording_alone_whatever_the_batch(base):
    model, processor = load_encoder(base)
    with torch.no_grad():
        alone = np.stack([model(**processor(iq=x)).pooler_output[0].numpy() for x in X])
    for batch_size in (1, 7, 64):
        found = MMWFMEmbedder(base, batch_size=batch_size, pooling="cls").fit(X).transform(X)
        assert found.shape == (48, 32) and found.dtype == np.float32
        np.testing.assert_allclose(found, alone, atol=1e-4)
    assert MMWFMEmbedder(base, pooling="mean_std").fit_transform(X).shape == (48, 64)


def test_forms_of_one_recording_have_the_same_features(base, tmp_path):
    signal = X[1].astype(np.complex64)
    np.save(tmp_path / "a.npy", signal)
    signal.tofile(tmp_path / "a.cf32")
    forms = [signal, torch.from_numpy(signal), torch.from_numpy(signal.conj()).conj(), signal[None]]
    forms += [str(tmp_path / "a.npy"), tmp_path / "a.cf32"]
    features = MMWFMEmbedder(base).transform(forms)
    np.testing.assert_allclose(features, features[:1].repeat(len(forms), 0), atol=1e-5)
    pairs = signal.view(np.float32).reshape(-1, 2)
    np.testing.assert_allclose(MMWFMEmbedder(base, kind="iq").transform([pairs]), features[:1], atol=1e-5)
    np.testing.assert_allclose(
        MMWFMEmbedder(base, window_length=20).transform([signal]),
        MMWFMEmbedder(base).transform([signal[14:34]]),
        atol=1e-5,
    )


@pytest.mark.parametrize("labels", [Y, Y + 7, np.array(["down", "up"])[Y], ["down" if y else "up" for y in Y]])
def test_a_classifier_tells_labels_of_any_type(base, labels):
    classifier = MMWFMClassifier(base).fit(X, labels, groups=GROUPS)
    others = recordings(seed=1)
    assert classifier.score(others, labels) > 0.95
    assert set(classifier.predict(others)) <= set(np.unique(labels)) and list(classifier.classes_) == sorted(
        set(labels)
    )
    probabilities = classifier.predict_proba(others)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    scores = classifier.decision_function(others)
    assert scores.shape == (48,)
    np.testing.assert_array_equal(classifier.classes_[(scores > 0).astype(int)], classifier.predict(others))
    np.testing.assert_allclose(1 / (1 + np.exp(-scores)), probabilities[:, 1], atol=1e-6)
    assert (classifier.novelty(others) < 1.2).mean() > 0.8
    far = [100 * x for x in others]
    assert classifier.novelty(far).min() > classifier.novelty(others).max()


def test_three_classes_have_a_score_each(base):
    classifier = MMWFMClassifier(base).fit(X, np.arange(48) % 3)
    scores = classifier.decision_function(X)
    assert scores.shape == classifier.predict_proba(X).shape == (48, 3)
    np.testing.assert_array_equal(scores.argmax(1), classifier.predict(X))


@pytest.mark.parametrize("axes", [None, 1, 2])
def test_a_regressor_keeps_the_form_of_its_targets(base, axes):
    lengths = np.array([np.shape(x)[-1] for x in X], dtype=float)
    targets = lengths if axes is None else np.stack([lengths, 5 - lengths][:axes], 1)
    regressor = MMWFMRegressor(base).fit(X, targets)
    found = regressor.predict(X)
    assert found.shape == targets.shape and regressor.score(X, targets) > 0.2
    with pytest.raises(ValueError, match="`y`: expected finite numbers"):
        MMWFMRegressor(base).fit(X, np.full(48, np.nan))


def test_features_are_computed_once_in_all_of_a_search(base, forwards):
    assert cross_val_score(MMWFMClassifier(base), X, Y, groups=GROUPS, cv=GroupKFold(3)).min() > 0.9
    assert sum(forwards) == 48
    chain = make_pipeline(MMWFMEmbedder(base), StandardScaler(), LogisticRegression())
    assert cross_val_score(chain, X, Y, groups=GROUPS, cv=GroupKFold(3)).min() > 0.9
    search = GridSearchCV(MMWFMClassifier(base), {"pooling": ["cls", "mean"]}, cv=GroupKFold(3))
    search.fit(X, Y, groups=GROUPS)
    assert sum(forwards) == 3 * 48  # of None, "cls" and "mean"
    MMWFMClassifier(base, pooling="mean", batch_size=5).fit(X, Y).novelty(X)
    assert sum(forwards) == 3 * 48
    MMWFMEmbedder(base).transform([X[0] + 1e-3, X[0] + 1e-3])  # another array, twice
    assert sum(forwards) == 3 * 48 + 1
    with sklearn.config_context(enable_metadata_routing=True):
        routed = MMWFMClassifier(base).set_fit_request(groups=True)
        assert cross_val_score(routed, X, Y, cv=GroupKFold(3), params={"groups": GROUPS}).min() > 0.9
    assert sum(forwards) == 3 * 48 + 1


def test_groups_decide_the_strength(base, monkeypatch):
    seen = []
    fit_head = estimators.fit_head
    monkeypatch.setattr(estimators, "fit_head", lambda *args: seen.append(args[2]) or fit_head(*args))
    MMWFMClassifier(base).fit(X, Y, groups=list("abcdefghijkl" * 4))
    assert list(seen[0]) == list("abcdefghijkl" * 4)
    with pytest.raises(ValueError, match="`groups`: expected one for each of 48 recordings"):
        MMWFMClassifier(base).fit(X, Y, groups=[1, 2])


def test_another_model_of_the_same_name_has_other_features(base, tmp_path):
    for seed in (0, 1):
        make(MMWFMForPreTraining, seed=seed).save_pretrained(tmp_path)
        MMWFMProcessor.from_pretrained(base).save_pretrained(tmp_path)
        found = MMWFMEmbedder(tmp_path).transform(X[:3])
        model, processor = load_encoder(str(tmp_path))
        with torch.no_grad():
            np.testing.assert_allclose(found[1], model(**processor(iq=X[1])).pooler_output[0], atol=1e-4)


def test_another_recording_of_the_same_name_has_other_features(base, tmp_path):
    path = write_sigmf(tmp_path / "a.sigmf-meta", np.full((1, 40), 0.5, np.complex64))
    before = MMWFMEmbedder(base).transform([path])
    np.full(80, -9, "i1").tofile(path.with_suffix(".sigmf-data"))
    os.utime(path.with_suffix(".sigmf-data"), ns=(1, 1))
    assert np.abs(MMWFMEmbedder(base).transform([path]) - before).max() > 1e-3


def test_a_random_encoder_is_that_of_its_seed(base):
    first, again, other, own = (MMWFMEmbedder(base, random_encoder=seed).transform(X[:3]) for seed in (0, 0, 1, None))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01 and np.abs(first - own).max() > 0.01
    control = MMWFMClassifier(base, random_encoder=0).fit(X, Y)
    with pytest.raises(ValueError, match="found one of fresh weights, an adapter or a fine-tuned model"):
        control.save_pretrained("nowhere")


def test_adapters_and_fine_tuned_models_are_encoders_too_but_no_bases(base, tmp_path):
    adapter = write_adapter(base, tmp_path / "adapter", ["iq"], {"num_labels": 3})
    make(MMWFMForSequenceClassification, num_labels=5).save_pretrained(tmp_path / "whole")
    for folder in (adapter, tmp_path / "whole"):
        MMWFMProcessor.from_pretrained(base).save_pretrained(folder)
        classifier = MMWFMClassifier(str(folder)).fit(X, Y)
        assert np.abs(classifier.transform(X[:1]) - MMWFMEmbedder(base).transform(X[:1])).max() > 0.01
        with pytest.raises(ValueError, match="expected the head of a checkpoint without one"):
            classifier.save_pretrained(tmp_path / "head")


def test_columns_of_a_data_set_and_arrays_of_objects_are_recordings(base):
    rows = tone_rows(24, "train", 0)
    classifier = MMWFMClassifier(base, kind="iq").fit(rows["iq"], rows["label"], groups=rows["group"][:])
    assert classifier.score(rows["iq"], rows["label"]) == 1
    assert cross_val_score(MMWFMClassifier(base, kind="iq"), rows["iq"], rows["label"][:], cv=3).min() > 0.8
    objects = np.empty(48, object)
    objects[:] = X
    np.testing.assert_array_equal(MMWFMEmbedder(base).transform(objects), MMWFMEmbedder(base).transform(X))


def test_captures_and_arrays_of_csi(base, tmp_path):
    csi = [random_csi(40 + n, 64, 1, 1, 8, seed=n) for n in range(6)]
    names = [tmp_path / f"{n}.csv" for n in range(6)]
    for name, values in zip(names, csi):
        name.write_bytes(esp32_file(values, times(len(values))))
    amplitudes = [read_capture(name, "esp32").amplitude for name in names]
    for kind in (None, "csi"):
        found = MMWFMEmbedder(base, kind=kind, packet_rate_hz=99.0).transform(names)
        np.testing.assert_allclose(found, MMWFMEmbedder(base, kind="csi").transform(amplitudes), atol=1e-5)
    decibels = [20 * np.log10(values + 1e-6) for values in amplitudes]
    found = MMWFMEmbedder(base, kind="csi", unit="db").transform(decibels)
    np.testing.assert_allclose(found, MMWFMEmbedder(base, kind="csi").transform(amplitudes), atol=1e-3)
    saved = MMWFMClassifier(base).fit(names, [0, 1] * 3).save_pretrained(tmp_path / "head")
    assert MMWFMProcessor.from_pretrained(saved).kind == "csi"
    seen = []
    estimator = MMWFMEmbedder(base, packet_rate_hz=50.0)
    estimator._read = lambda item: seen.append(MMWFMEmbedder._read(estimator, item)) or seen[-1]
    estimator.transform(names[:1])
    assert seen[0][2] == 50.0  # what is said stands before what was measured


def test_images_are_arrays_or_pictures(base):
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (20 + n, 30), dtype=np.uint8) for n in range(3)]
    arrays = [values[None].astype(np.float32) / 255 for values in pixels]
    found = MMWFMEmbedder(base).transform([Image.fromarray(values) for values in pixels])
    np.testing.assert_allclose(found, MMWFMEmbedder(base, kind="images").transform(arrays), atol=1e-4)


def test_what_cannot_be_told_or_read_is_refused(base, tmp_path):
    for call, match in (
        (
            lambda: MMWFMEmbedder(base).transform([np.ones((3, 20, 30))]),
            "`kind`: expected iq, images, csi beside real",
        ),
        (lambda: MMWFMEmbedder(base).transform([torch.ones(30, 2)]), "`kind`: expected iq, images, csi beside real"),
        (
            lambda: MMWFMEmbedder(base, kind="sound").transform(X),
            "`kind`: expected iq, images, csi or None, found 'sound'",
        ),
        (lambda: MMWFMEmbedder(base).transform([]), "expected at least one recording, found none"),
        (lambda: MMWFMEmbedder(base).transform([tmp_path / "none.npy"]), "found no file"),
        (lambda: MMWFMClassifier(base).fit(X, Y[:-1]), "expected a target for each of 48 recordings, found 47"),
        (lambda: MMWFMClassifier(base).fit(X, np.zeros((48, 2))), "`y`: expected one label for each recording"),
        (lambda: MMWFMClassifier(base).fit(X, np.zeros(48)), "expected rows of at least two classes"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


@pytest.fixture(scope="module")
def saved(base, tmp_path_factory):
    """(fitted classifier, its folder)"""
    classifier = MMWFMClassifier(base, pooling="mean", views=["iq", "spectrogram"]).fit(X, np.array(["no", "yes"])[Y])
    return classifier, classifier.save_pretrained(tmp_path_factory.mktemp("saved") / "head")


@torch.no_grad()
def test_a_saved_head_opens_in_every_way_with_the_same_probabilities(base, saved):
    classifier, folder = saved
    processor = MMWFMProcessor.from_pretrained(folder)
    assert (processor.kind, processor.iq_views) == ("iq", ["iq", "spectrogram"])
    config = AutoConfig.from_pretrained(folder)
    assert config.id2label == {0: "no", 1: "yes"} and config.pooling == "mean"
    on_base = AutoModelForSequenceClassification.from_pretrained(base, config=config)
    auto = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for model in (auto, load_adapted(folder), PeftModel.from_pretrained(on_base, folder).eval()):
        output = model(**processor(iq=X[:8]))
        np.testing.assert_allclose(output.logits.softmax(-1), classifier.predict_proba(X[:8]), atol=1e-4)
        np.testing.assert_allclose(output.novelty, classifier.novelty(X[:8]), atol=1e-3)
    answers = pipeline("signal-classification", model=auto, processor=processor, device="cpu")(X[:2])
    for answer, probabilities, novelty in zip(answers, classifier.predict_proba(X[:2]), classifier.novelty(X[:2])):
        scores = {entry["label"]: entry["score"] for entry in answer}
        assert [scores["no"], scores["yes"]] == pytest.approx(list(probabilities), abs=1e-4)
        assert answer[0]["novelty"] == pytest.approx(novelty, abs=1e-3)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == base


@torch.no_grad()
@pytest.mark.parametrize("axes", [None, 2])
def test_a_saved_regressor_gives_the_same_metres(base, tmp_path, axes):
    lengths = np.array([np.shape(x)[-1] for x in X], dtype=float)
    regressor = MMWFMRegressor(base).fit(X, lengths if axes is None else np.stack([lengths, np.full(48, 2.0)], 1))
    folder = regressor.save_pretrained(tmp_path / "head")
    model, processor = load_adapted(folder), MMWFMProcessor.from_pretrained(folder)
    output = model(**processor(iq=X[:8]))
    np.testing.assert_allclose(output.logits, regressor.predict(X[:8]).reshape(8, -1), atol=1e-3)
    np.testing.assert_allclose(output.novelty, regressor.novelty(X[:8]), atol=1e-3)


def test_an_analysis_marks_what_is_unlike_the_training_rows(base, tmp_path):
    rng = np.random.default_rng(0)
    noise = 0.3 * (rng.standard_normal(6400) + 1j * rng.standard_normal(6400))
    values = np.exp(0.2j * np.pi * np.arange(6400)) + noise
    windows = [values[start : start + 64] for start in range(0, 3200, 64)]
    classifier = MMWFMClassifier(base).fit(windows + [x.conj() for x in windows], [0] * 50 + [1] * 50)
    values[3200:] *= 20
    values.astype(np.complex64).tofile(tmp_path / "long.cf32")
    folder = classifier.save_pretrained(tmp_path / "head")
    arguments = AnalysisArguments(str(folder), str(tmp_path / "out"), window_length=64, overlap=0.0)
    files = analyze(tmp_path / "long.cf32", arguments)
    with files["windows"].open() as file:
        novelty = np.array([float(row["novelty"]) for row in csv.DictReader(file)])
    np.testing.assert_allclose(novelty, classifier.novelty(values.astype(np.complex64).reshape(100, 64)), atol=1e-2)
    assert np.median(novelty[:50]) < 1 < novelty[50:].min()
    for entry in json.loads(files["annotations"].read_text())["annotations"]:
        whole_novel = entry["core:sample_start"] >= 3200
        assert entry["mmwfm:novelty"] > 1 or not whole_novel
        assert ("unlike the training data" in entry["core:comment"]) == (entry["mmwfm:novelty"] > 1)
    # Grey over the second half of the classes alone.
    waterfall = Waterfall(6400, 64, 2)
    for first in range(0, 6400, 64):
        waterfall.mark(first, first + 64, 0, novelty[first // 64] > 1)
    share = waterfall.is_novel()
    assert share[len(share) // 2 :].all() and share[: len(share) // 2].mean() < 0.1


# Opens the head by its name, as somebody without this package would.
READER = """
import sys
sys.modules["modeling_mmwfm"] = None
import numpy as np, torch
from transformers import pipeline
pipe = pipeline("signal-classification", model=sys.argv[1], trust_remote_code=True, device="cpu")
torch.save(pipe(np.load(sys.argv[2]), top_k=None), sys.argv[3])
"""


def test_a_head_goes_to_the_hub_and_opens_there(hub, base, saved, tmp_path, monkeypatch):
    online(monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub[0])
    api = HfApi(hub[0], token=READER_TOKEN)
    publish(base, "local/heads-base", api=api)
    assert "local/heads-head" in saved[0].push_to_hub("local/heads-head", base_model="local/heads-base", api=api)
    np.save(tmp_path / "x.npy", X[1])
    environment = client_environment(hub[0], tmp_path / "cache")
    finish(start(environment, "-c", READER, "local/heads-head", tmp_path / "x.npy", tmp_path / "found.pt"))
    found = {entry["label"]: entry["score"] for entry in torch.load(tmp_path / "found.pt", weights_only=False)}
    assert [found["no"], found["yes"]] == pytest.approx(list(saved[0].predict_proba(X[1:2])[0]), abs=1e-4)
