"""The processor: every form of input gives the same tensors; statistics; what is refused."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from modeling_mmwfm import MMWFMFeatureExtractor, MMWFMImageProcessor, MMWFMProcessor

RNG = np.random.default_rng(0)
PLAIN = MMWFMProcessor(MMWFMFeatureExtractor(normalization="none"), MMWFMImageProcessor(normalization="none"))


def noise(*shape) -> np.ndarray:
    return (RNG.standard_normal(shape) + 1j * RNG.standard_normal(shape)).astype(np.complex64)


X = noise(2, 3, 50)  # batch, antennas, samples
EXPECTED = np.stack([X.real, X.imag], axis=2)


@pytest.mark.parametrize(
    "form",
    [
        X,
        X.astype(np.complex128),
        X.astype(">c8"),
        X[..., ::-1].copy()[..., ::-1],
        np.asfortranarray(X),
        torch.from_numpy(X),
        torch.from_numpy(X).requires_grad_(),
        list(X),
        tuple(torch.from_numpy(X)),
        [X[0].astype(np.complex128), X[1]],
        np.stack([X.real, X.imag], axis=-1),
        np.stack([X.real, X.imag], axis=-1).astype(np.float64),
        np.stack([X.real, X.imag], axis=-1).astype(">f4"),
        torch.view_as_real(torch.from_numpy(X)),
        list(np.stack([X.real, X.imag], axis=-1)),
    ],
    ids=[
        *("complex64", "complex128", "big-endian", "negative strides", "Fortran order", "torch", "requires grad"),
        *("list", "tuple of torch", "mixed types", "I and Q last", "float64", "big-endian float", "torch real"),
        "list of I and Q last",
    ],
)
def test_every_form_of_the_same_recording_gives_the_same_tensors(form):
    batch = PLAIN(iq=form)
    assert batch["iq_values"].dtype == torch.float32 and batch["iq_attention_mask"].dtype == torch.int64
    np.testing.assert_array_equal(batch["iq_values"].numpy(), EXPECTED)
    assert batch["iq_attention_mask"].shape == (2, 3, 50) and batch["iq_attention_mask"].all()


def test_read_only_memory_is_neither_refused_nor_written_to(recwarn):
    frozen = X.copy()
    frozen.setflags(write=False)
    batch = MMWFMProcessor()(iq=frozen, return_tensors="pt")
    batch["iq_values"].zero_()
    np.testing.assert_array_equal(frozen, X)
    assert not [warning for warning in recwarn if "writ" in str(warning.message)]


def test_one_recording_becomes_a_batch_of_one():
    assert PLAIN(iq=X[0, 0])["iq_values"].shape == (1, 1, 2, 50)
    assert PLAIN(iq=X[0])["iq_values"].shape == (1, 3, 2, 50)
    np.testing.assert_array_equal(PLAIN(iq=X[0])["iq_values"].numpy(), EXPECTED[:1])


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_half_precision_is_taken():
    real = np.stack([X.real, X.imag], axis=-1)
    for half in (real.astype(np.float16), torch.from_numpy(real).half(), torch.from_numpy(X).to(torch.complex32)):
        np.testing.assert_allclose(PLAIN(iq=half)["iq_values"].numpy(), EXPECTED, atol=2e-3)


def test_a_list_of_unequal_samples_is_padded_at_the_end_and_masked():
    samples = [noise(1, 7), noise(40), noise(3, 12), noise(40)]
    batch = PLAIN(iq=samples)
    values, mask = batch["iq_values"], batch["iq_attention_mask"]
    assert values.shape == (4, 3, 2, 40) and mask.shape == (4, 3, 40)
    for row, sample in enumerate(np.atleast_2d(sample) for sample in samples):
        antennas, length = sample.shape
        np.testing.assert_array_equal(values[row, :antennas, 0, :length].numpy(), sample.real)
        np.testing.assert_array_equal(values[row, :antennas, 1, :length].numpy(), sample.imag)
        assert mask[row, :antennas, :length].all() and mask[row].sum() == sample.size
        assert (values[row] * (1 - mask[row][:, None])).abs().max() == 0


@pytest.mark.parametrize(
    "dtype, raw, expected",
    [
        (np.int8, [-128, -64, 0, 127], [-1.0, -0.5, 0.0, 127 / 128]),
        (np.uint8, [0, 255, 128, 127], [-127.5 / 128, 127.5 / 128, 0.5 / 128, -0.5 / 128]),
        (np.int16, [-32768, 16384, 0, 1], [-1.0, 0.5, 0.0, 2.0**-15]),
        (">i2", [-32768, 16384, 0, 1], [-1.0, 0.5, 0.0, 2.0**-15]),
        (np.uint16, [0, 65535, 32768, 32767], [-32767.5 / 32768, 32767.5 / 32768, 0.5 / 32768, -0.5 / 32768]),
        (np.int32, [-(2**31), 2**30, 0, 0], [-1.0, 0.5, 0.0, 0.0]),
    ],
)
def test_integers_become_full_scale_values(dtype, raw, expected):
    interleaved = np.array(raw, dtype=dtype).reshape(2, 2)  # two samples of I and Q
    values = PLAIN(iq=interleaved)["iq_values"]
    assert values.shape == (1, 1, 2, 2)
    np.testing.assert_array_equal(values[0, 0].T.flatten().numpy(), np.array(expected, dtype=np.float32))


def test_iq_format_gives_scale_and_offset_of_integers():
    raw = np.array([[100, 104], [96, 100]], dtype=np.int64)
    given = PLAIN(iq=raw, iq_format={"scale": 0.25, "offset": 100.0})["iq_values"]
    saved = MMWFMFeatureExtractor(normalization="none", iq_format={"scale": 0.25, "offset": 100})(raw)["iq_values"]
    assert given.tolist() == saved.tolist() == [[[[0.0, -1.0], [1.0, 0.0]]]]


@pytest.mark.parametrize("level", [1e-12, 1e-3, 7.0, 1e9])
def test_sample_normalisation_gives_unit_power_over_all_antennas(level):
    samples = [level * noise(2, 300), level * 3 * noise(1, 200)]
    samples[0][1] *= 2  # antennas keep their relation
    batch = MMWFMProcessor(normalization="sample")(iq=samples)
    for row, size in enumerate((600, 200)):
        assert batch["iq_values"][row].square().sum().item() / size == pytest.approx(1, rel=1e-4)
    power = batch["iq_values"][0].square().sum((1, 2))
    original = np.square(np.abs(samples[0].astype(np.complex128))).sum(1)
    assert (power[1] / power[0]).item() == pytest.approx(original[1] / original[0], rel=1e-4)
    silent = MMWFMProcessor()(iq=np.zeros(32, np.complex64))["iq_values"]
    assert torch.equal(silent, torch.zeros(1, 1, 2, 32))


def rows(count: int = 9) -> list[dict]:
    """Recordings with different statistics of I and Q, images with different channels."""
    return [
        {
            "iq": (0.3 * noise(2, 64).real + 0.1 + 1j * (0.05 * noise(2, 64).imag - 0.02)).astype(np.complex64),
            "image": (np.array([[[1.0]], [[5.0]]]) * RNG.standard_normal((2, 16, 24)) - 60).astype(np.float32),
            "sampling_rate_hz": 2e6,
        }
        for _ in range(count)
    ]


def dataset_processor(**image_settings) -> MMWFMProcessor:
    image_settings = image_settings or {"keep_size": True}
    return MMWFMProcessor(
        MMWFMFeatureExtractor(normalization="dataset"),
        MMWFMImageProcessor(normalization="dataset", **image_settings),
    )


def test_fitting_measures_what_numpy_measures_in_one_pass():
    data, processor = rows(), dataset_processor()
    assert processor.fit(iter(data)) is processor  # an iterator can be read only once
    iq = np.stack([row["iq"] for row in data]).astype(np.complex128)
    image = np.stack([row["image"] for row in data]).astype(np.float64)
    extractor, image_processor = processor.feature_extractor, processor.image_processor
    np.testing.assert_allclose(extractor.iq_mean, [iq.real.mean(), iq.imag.mean()], rtol=1e-6)
    np.testing.assert_allclose(extractor.iq_std, [iq.real.std(), iq.imag.std()], rtol=1e-6)
    assert extractor.sampling_rate_hz == 2e6
    assert (image_processor.image_min, image_processor.image_max) == (image.min(), image.max())
    scaled = (image - image.min()) / (image.max() - image.min())
    np.testing.assert_allclose(image_processor.image_mean, scaled.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(image_processor.image_std, scaled.std((0, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("image_settings", [{"keep_size": True}, {"size": {"height": 32, "width": 16}}])
def test_the_fitted_set_itself_has_mean_0_and_deviation_1(image_settings):
    data, processor = rows(), dataset_processor(**image_settings)
    processor.fit(data)
    iq = np.stack([row["iq"] for row in data])
    batch = processor(iq=iq, images=[row["image"] for row in data], sampling_rate_hz=2e6)
    for name, channel_axis in (("iq_values", 2), ("pixel_values", 1)):
        by_channel = batch[name].double().movedim(channel_axis, 0).flatten(1)
        assert len(by_channel) == 2
        torch.testing.assert_close(by_channel.mean(1), torch.zeros(2).double(), atol=1e-4, rtol=0)
        torch.testing.assert_close(by_channel.std(1), torch.ones(2).double(), atol=1e-3, rtol=0)


def test_a_hub_dataset_is_fitted_like_a_list_of_rows():
    data = rows()
    features = {"iq": [], "image": [], "sampling_rate_hz": []}
    for row in data:
        features["iq"].append(np.stack([row["iq"].real, row["iq"].imag], axis=-1).tolist())
        features["image"].append(row["image"].tolist())
        features["sampling_rate_hz"].append(row["sampling_rate_hz"])
    from_list, from_dataset = dataset_processor().fit(data), dataset_processor()
    from_dataset.fit(datasets.Dataset.from_dict(features), batch_size=4)
    for part, names in (
        ("feature_extractor", ("iq_mean", "iq_std")),
        ("image_processor", ("image_mean", "image_std")),
    ):
        for name in names:
            expected, found = (getattr(getattr(p, part), name) for p in (from_list, from_dataset))
            np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert from_dataset.feature_extractor.sampling_rate_hz == 2e6


@pytest.mark.parametrize("rates", [[1e6, 2e6], [0.0, 0.0]])
def test_several_or_unknown_sampling_rates_pin_the_processor_to_none(rates):
    processor = dataset_processor().fit([row | {"sampling_rate_hz": rate} for row, rate in zip(rows(2), rates)])
    assert processor.feature_extractor.sampling_rate_hz is None
    assert processor(iq=X, sampling_rate_hz=5e5)["iq_values"].shape == (2, 3, 2, 50)


def test_a_saved_processor_gives_equal_outputs(tmp_path):
    processor = dataset_processor(size={"height": 32, "width": 16}).fit(rows())
    processor.feature_extractor.n_fft, processor.feature_extractor.hop_length = 32, 8
    processor.save_pretrained(tmp_path)
    again = MMWFMProcessor.from_pretrained(tmp_path)
    image = np.ones((2, 8, 8), np.float32)
    before, after = (part(iq=X, images=image, sampling_rate_hz=2e6) for part in (processor, again))
    assert set(before) == {"iq_values", "iq_attention_mask", "pixel_values"}
    for name in before:
        assert torch.equal(before[name], after[name])
    assert torch.equal(processor.spectrogram(X, 2e6), again.spectrogram(X, 2e6))
    with pytest.raises(ValueError, match="expected 2e\\+06"):
        again(iq=X, sampling_rate_hz=1e6)


def test_numpy_arrays_come_back_where_they_are_asked_for():
    batch = PLAIN(iq=X, images=np.ones((1, 8, 8)), return_tensors="np")
    assert all(isinstance(batch[name], np.ndarray) for name in batch.keys())
    np.testing.assert_array_equal(batch["iq_values"], EXPECTED)


@pytest.mark.parametrize(
    "iq, match",
    [
        (np.float32(RNG.standard_normal(50)), r"complex values, or real ones with a last axis of I and Q.*\(50,\)"),
        (np.zeros((4, 3)), r"last axis of I and Q, found torch.float64 of shape \(4, 3\)"),
        (np.complex64(1), r"expected \(T,\), \(A, T\) or \(B, A, T\)"),
        (np.zeros((1, 2, 3, 4), np.complex64), r"expected \(T,\), .*found \(1, 2, 3, 4\)"),
        ([X], r"expected a list of \(T,\) or \(A, T\).*found \(2, 3, 50\)"),
        ([], "expected at least one sample, found an empty list"),
        (np.zeros(0, np.complex64), r"at least one value on each axis, found shape \(1, 1, 0\)"),
        (np.zeros((0, 2, 8), np.complex64), r"at least one value on each axis, found shape \(0, 2, 8\)"),
        ([X[0], np.zeros((2, 0), np.complex64)], "at least one value on each axis"),
        (np.array([1, np.nan], np.complex64), "`iq`: expected finite values, found NaN or Inf"),
        (np.array([[1, np.inf]], np.float32), "expected finite values"),
        (np.array(["a", "b"], dtype=object), "expected numbers, found an array of object"),
        (np.array(["a", "b"]), "expected numbers"),
        (np.zeros((4, 2), bool), "expected numbers, found an array of bool"),
        (torch.zeros(4, 2, dtype=torch.bool), "expected numbers, found .*bool"),
        (np.zeros((4, 2), np.int64), "integers of at most 32 bits or an `iq_format`.*torch.int64"),
        (np.zeros((17, 20), np.complex64), "at most 16 antennas, found 17"),
    ],
)
def test_iq_that_cannot_be_read_is_refused(iq, match):
    with pytest.raises(ValueError, match=match):
        PLAIN(iq=iq)
    with pytest.raises(ValueError, match=match):
        PLAIN.spectrogram(iq)


def test_calls_that_contradict_themselves_are_refused():
    image = np.ones((1, 8, 8), np.float32)
    for arguments, match in (
        ({}, "expected `iq`, `images` or `csi`, found none of them"),
        ({"iq": X, "views": ()}, "`views`: expected 'iq', 'spectrogram' or both"),
        ({"iq": X, "views": ("iq", "waterfall")}, "`views`.*waterfall"),
        ({"iq": X, "return_tensors": "tf"}, "`return_tensors`: expected 'pt' or 'np', found 'tf'"),
        (
            {"iq": X, "images": image, "views": ("spectrogram",)},
            "or the 'spectrogram' view of `iq`, found two of them",
        ),
        ({"iq": np.zeros((4, 2), np.int8), "iq_format": {"scale": 1.0}}, "`iq_format`: expected 'scale' and 'offset'"),
        ({"iq": X, "sampling_rate_hz": 0}, "`sampling_rate_hz`: expected a positive number, found 0"),
        ({"iq": X, "sampling_rate_hz": 1e6, "resample": True}, "`resample`: expected a fitted and a given"),
    ):
        with pytest.raises(ValueError, match=match):
            PLAIN(**arguments)
    for part in (MMWFMFeatureExtractor, MMWFMImageProcessor, MMWFMProcessor):
        with pytest.raises(ValueError, match="`normalization`: expected 'dataset', 'sample' or 'none', found 'unit'"):
            part(normalization="unit")
    for arguments in ({"iq": X}, {"images": image}):
        with pytest.raises(ValueError, match=r"expected fitted statistics, call `fit\(dataset\)` first"):
            MMWFMProcessor(normalization="dataset")(**arguments)
    with pytest.raises(ValueError, match="rows with a column `iq`, `image` or `csi`, found none"):
        MMWFMProcessor().fit([{"label": 1}])
    with pytest.raises(ValueError, match="whose values vary, found a constant column"):
        MMWFMProcessor().fit([{"iq": np.ones(8, np.complex64)}])


@pytest.mark.parametrize(
    "images, match",
    [
        (np.zeros(64), r"expected \(C, H, W\) or \(B, C, H, W\) of real values.*\(64,\)"),
        (np.zeros((8, 8)), r"\(8, 8\)"),
        (np.zeros((1, 8, 8), np.complex64), "of real values, found torch.complex64"),
        ([np.zeros((1, 1, 8, 8))], r"expected a list of \(C, H, W\)"),
        ([], "at least one sample"),
        (np.zeros((1, 0, 8)), "at least one value on each axis"),
        (np.full((1, 8, 8), np.inf), "`images`: expected finite values"),
        ([np.zeros((1, 8, 8)), np.zeros((2, 8, 8))], "expected one channel count and size"),
        (np.array([None]), "expected numbers"),
    ],
)
def test_images_that_cannot_be_read_are_refused(images, match):
    with pytest.raises(ValueError, match=match):
        PLAIN(images=images)


def test_a_fitted_processor_refuses_other_channels_and_unequal_sizes_it_may_not_change():
    processor = dataset_processor().fit(rows(2))
    with pytest.raises(ValueError, match="expected the 2 channels that this processor was fitted for, found 1"):
        processor(images=np.zeros((1, 8, 8)))
    with pytest.raises(ValueError, match=r"one channel count and size, found .*\(2, 8, 8\), \(2, 8, 9\)"):
        processor(images=[np.zeros((2, 8, 8)), np.zeros((2, 8, 9))])


def test_images_of_any_shape_and_kind_are_resized_and_batched():
    assert PLAIN(images=np.zeros((5, 114, 500)))["pixel_values"].shape == (1, 5, 224, 224)
    assert PLAIN(images=torch.zeros(3, 1, 20, 30))["pixel_values"].shape == (3, 1, 224, 224)
    pixels = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    keep = MMWFMProcessor(image_processor=MMWFMImageProcessor(normalization="none", keep_size=True))
    expected = (pixels / 255).astype(np.float32).transpose(2, 0, 1)[None]
    for form in (Image.fromarray(pixels), [Image.fromarray(pixels)], pixels.transpose(2, 0, 1)):
        np.testing.assert_allclose(keep(images=form)["pixel_values"].numpy(), expected, rtol=1e-6)
    gray = keep(images=Image.fromarray(pixels[..., 0]))["pixel_values"]
    np.testing.assert_allclose(gray.numpy(), expected[:, :1], rtol=1e-6)
    sizes = {8.0: (8, 9), 30.0: (30, 5), 5.0: (8, 9)}
    levels = [np.full((1, *size), level, np.float32) for level, size in sizes.items()]
    batch = PLAIN(images=levels)["pixel_values"]
    assert batch.shape == (3, 1, 224, 224)
    torch.testing.assert_close(batch.mean((1, 2, 3)), torch.tensor(list(sizes)))  # in the order given
    sample = MMWFMProcessor()(images=[100 + 7 * pixels.transpose(2, 0, 1).astype(np.float64)] * 2)["pixel_values"]
    torch.testing.assert_close(sample.mean((1, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(sample.std((1, 2, 3)), torch.ones(2), atol=1e-4, rtol=0)
