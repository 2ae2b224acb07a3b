"""Configuration: the shipped sizes load, and mistakes are refused by name."""

import json
from pathlib import Path

import pytest
from huggingface_hub.errors import StrictDataclassError

from modeling_mmwfm import MMWFMConfig, MMWFMForPreTraining, MMWFMForSequenceClassification, MMWFMModel
from tests.small_models import SMALL

PRESETS = Path(__file__).parents[1] / "configuration" / "models"
SIZES = ["tiny", "small", "base", "large", "wavesfm"]


def test_the_five_sizes_are_shipped():
    kinds = {path.name: json.loads((path / "config.json").read_text())["model_type"] for path in PRESETS.iterdir()}
    assert set(SIZES) <= {name for name, kind in kinds.items() if kind == "mmwfm"}


@pytest.mark.parametrize("size", SIZES)
def test_every_preset_loads_and_each_of_its_keys_is_a_field(size):
    written = json.loads((PRESETS / size / "config.json").read_text())
    assert len(written) > 5
    assert set(written) <= set(MMWFMConfig.__dataclass_fields__) | {"model_type"}
    config = MMWFMConfig.from_pretrained(PRESETS / size)
    for key, value in written.items():
        assert getattr(config, key) == value, key


def test_small_is_the_papers_model_and_the_default():
    small, default = MMWFMConfig.from_pretrained(PRESETS / "small"), MMWFMConfig()
    expected = (256, 8, 8, 1024, 128, 4, 16, 512)
    names = [
        f"{prefix}{name}"
        for prefix in ("", "decoder_")
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    ]
    assert tuple(getattr(small, name) for name in names) == expected
    assert tuple(getattr(default, name) for name in names) == expected
    assert (small.patch_size, small.segment_length, small.max_antennas) == (16, 16, 16)
    assert (small.iq_targets, small.iq_input, small.pooling) == ({"waveform": 1.0}, "waveform", "cls")
    assert small.cross_view_masking == small.contrastive_weight == 0
    assert (small.mask_ratio_iq, small.mask_ratio_image, small.affine_position) == (0.7, 0.7, "projection")


def test_a_saved_configuration_comes_back_equal(tmp_path):
    config = MMWFMConfig(**SMALL, num_labels=3, label_min=[0, 0, 0.5], label_max=[80, 60, 40], pooling="mean")
    config.iq_targets = {"waveform": 1, "envelope": 0.5}
    config.save_pretrained(tmp_path)
    assert MMWFMConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_a_misspelt_key_is_refused_with_the_field_that_was_meant():
    with pytest.raises(ValueError, match="found mask_ratio_iqq; did you mean `mask_ratio_iq`"):
        MMWFMConfig(mask_ratio_iqq=0.5)


def test_a_misspelt_key_in_a_file_is_refused(tmp_path):
    settings = MMWFMConfig().to_dict() | {"pooled": "mean"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="found pooled"):
        MMWFMConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": "256"},
        {"hidden_size": 256.5},
        {"num_hidden_layers": None},
        {"mask_ratio_iq": "0.7"},
        {"affine_position": "after"},
        {"iq_masking": "segment"},
        {"pooling": "max"},
        {"iq_input": "log_spectrum"},
        {"iq_targets": {"waveform": "1"}},
        {"iq_targets": ["waveform"]},
        {"cross_view_masking": True},
        {"contrastive_size": 64.5},
        {"normalize_targets": "yes"},
        {"label_min": 0.0, "label_max": 1.0},
        {"modalities": "iq"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_value_of_the_wrong_type_is_refused_by_its_field_name(settings):
    with pytest.raises(StrictDataclassError, match=next(iter(settings))):
        MMWFMConfig(**settings)


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"modalities": []}, "`modalities`: expected some of 'iq' and 'image'"),
        ({"modalities": ["iq", "audio"]}, "`modalities`.*audio"),
        ({"hidden_size": 30}, "`hidden_size`: expected a multiple of 4.*found 30 with 8 heads"),
        ({"num_attention_heads": 0}, "`hidden_size`.*with 0 heads"),
        ({"num_attention_heads": 3}, "`num_attention_heads`, found 256 with 3 heads"),
        ({"decoder_num_attention_heads": 5}, "`decoder_hidden_size`.*found 128 with 5 heads"),
        ({"patch_size": 0}, "`patch_size`: expected at least 1, found 0"),
        ({"num_channels": 0}, "`num_channels`: expected at least 1"),
        ({"segment_length": -1}, "`segment_length`: expected at least 1, found -1"),
        ({"max_antennas": 0}, "`max_antennas`: expected at least 1"),
        ({"mask_ratio_iq": 1.0}, "`mask_ratio_iq`: expected 0 <= ratio < 1, found 1.0"),
        ({"mask_ratio_image": -0.1}, "`mask_ratio_image`: expected 0 <= ratio < 1"),
        ({"iq_targets": {}}, "`iq_targets`: expected weights above 0 of some of .'waveform'.*found {}"),
        ({"iq_targets": {"phase": 1.0}}, "`iq_targets`.*'log_spectrum', 'envelope'.*found {'phase': 1.0}"),
        ({"iq_targets": {"waveform": 1.0, "envelope": 0}}, "`iq_targets`.*'envelope': 0}"),
        ({"iq_targets": {"waveform": float("nan")}}, "`iq_targets`.*nan"),
        (
            {"iq_targets": {"envelope": 1}, "normalize_targets": True, "segment_length": 8},
            "`normalize_targets`: expected a `segment_length` above 8 beside the target 'envelope', found 8",
        ),
        ({"cross_view_masking": 1.5}, "`cross_view_masking`: expected 0 <= probability <= 1, found 1.5"),
        ({"cross_view_masking": 0.5, "modalities": ["iq"]}, "`cross_view_masking`: expected 0 for one modality"),
        ({"contrastive_weight": -0.1}, "`contrastive_weight`: expected a weight from 0, found -0.1"),
        ({"contrastive_temperature": 0}, "`contrastive_temperature`: expected a value above 0, found 0"),
        ({"contrastive_size": 0}, "`contrastive_size`: expected at least 1, found 0"),
        ({"label_min": [0.0]}, "both `label_min` and `label_max`"),
        ({"label_min": [0.0], "label_max": [0.0]}, "`label_min` below `label_max`"),
        ({"label_min": [0.0], "label_max": [1.0, 2.0]}, "`label_min` below `label_max`"),
    ],
)
def test_an_architecture_that_cannot_work_is_refused(settings, match):
    with pytest.raises(StrictDataclassError, match=match):
        MMWFMConfig(**settings)


def test_a_configuration_changed_after_construction_is_checked_when_a_model_is_made():
    config = MMWFMConfig(**SMALL)
    config.decoder_num_attention_heads = 3
    with pytest.raises(ValueError, match="`decoder_hidden_size`"):
        MMWFMModel(config)


def test_models_refuse_settings_that_contradict_their_head():
    with pytest.raises(ValueError, match="`input_channels`: expected none in pretraining.*found 3"):
        MMWFMForPreTraining(MMWFMConfig(**SMALL, input_channels=3))
    with pytest.raises(ValueError, match="`problem_type`.*found 'multi_label_classification'"):
        MMWFMForSequenceClassification(MMWFMConfig(**SMALL, problem_type="multi_label_classification"))
    settings = {"num_labels": 3, "problem_type": "regression", "label_min": [0.0, 0.0], "label_max": [1.0, 1.0]}
    with pytest.raises(ValueError, match=r"`label_min`: expected one value per label \(3\), found 2"):
        MMWFMForSequenceClassification(MMWFMConfig(**SMALL, **settings))
