"""`transformers.pipeline` for recordings: arrays and files in, labels with scores, metres or features out.

pipe = pipeline("signal-classification", model=FOLDER_OR_NAME, trust_remote_code=True)
pipe("capture.sigmf-meta")   # [{"label": "lora", "score": 0.98}, ...]
"""

import os
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoProcessor, BatchFeature, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .processing_mmwfm import KINDS
from .recordings_mmwfm import describe, open_recording

if TYPE_CHECKING:  # transformers copies the code that it finds imported: so an adapter's folder gets the model's, too
    from .modeling_mmwfm import MMWFMForSequenceClassification

MAX_SAMPLES = 2**20  # in one forward, over all antennas
PREPROCESSING = (
    *("datatype", "num_antennas", "sampling_rate_hz", "packet_rate_hz", "unit", "chip"),
    *("resample", "views", "window_length"),
)


def custom_pipelines() -> dict[str, dict]:
    """For the field of that name in config.json, where `pipeline` looks for tasks that transformers does not know."""
    tasks = {
        "signal-classification": ("MMWFMSignalClassificationPipeline", "AutoModelForSequenceClassification"),
        "feature-extraction": ("MMWFMFeatureExtractionPipeline", "AutoModel"),
    }
    return {
        task: {"impl": f"pipeline_mmwfm.{implementation}", "pt": [auto_class], "type": "multimodal"}
        for task, (implementation, auto_class) in tasks.items()
    }


def check_head(model: "MMWFMForSequenceClassification"):
    """Refuses a head that was never trained, as of a pretraining checkpoint: it has no task and its bias is zero."""
    bias = getattr(getattr(model, "classifier", None), "bias", None)
    if bias is not None and model.config.problem_type is None and not bias.any():
        raise ValueError(
            f"expected a fine-tuned model, found one whose head was never trained: {model.config.name_or_path or model}"
        )


def processor_of(model, processor):
    """That of the adapter, where `pipeline` has taken that of the base: it does so with an adapter by Hub name."""
    adapter = vars(model).pop("opened_adapter", None)
    if adapter is None:
        return processor
    base = AutoProcessor.from_pretrained(model.config.name_or_path, trust_remote_code=True)
    if processor.to_dict() != base.to_dict():
        return processor
    return AutoProcessor.from_pretrained(**adapter, trust_remote_code=True)


def merge_batches(batches: list[BatchFeature]) -> dict[str, torch.Tensor]:
    """Batches of the processor -> one; IQ of fewer antennas or samples is padded with masked zeros."""
    if any(batch.keys() != batches[0].keys() for batch in batches):
        found = sorted({" and ".join(sorted(batch)) for batch in batches})
        raise ValueError(f"expected the same kind of input in the whole list, found {found}")
    merged = {}
    for name in batches[0]:
        tensors = [batch[name] for batch in batches]
        if name == "pixel_values":
            if len(shapes := {tuple(tensor.shape[1:]) for tensor in tensors}) > 1:
                raise ValueError(f"expected images of one channel count and size in a batch, found {sorted(shapes)}")
        else:
            antennas, samples = (max(tensor.shape[axis] for tensor in tensors) for axis in (1, -1))
            tensors = [
                torch.nn.functional.pad(
                    tensor,
                    (0, samples - tensor.shape[-1], *(0, 0) * (tensor.ndim - 3), 0, antennas - tensor.shape[1]),
                )
                for tensor in tensors
            ]
        merged[name] = torch.cat(tensors)
    return merged


def read_item(
    item, kind: str | None, window_length: int | None = None, sampling_rate_hz: float | None = None, **options
) -> tuple[str, object, float | None]:
    """One file or array -> "iq", "images" or "csi", its values, sampling or packet rate.

    Args:
        kind: which of these it must be, if that is known.
        window_length: take so many samples (packets of CSI) from the middle of a longer one.
        sampling_rate_hz: where a file does not say it; of CSI that of the packets.
        options: `datatype`, `num_antennas` and `chip` of `open_recording`.
    """
    expected = {"images": "image"}.get(kind, kind)
    if isinstance(item, (str, os.PathLike)):
        recording = open_recording(item, kind=expected, **options)
        name, found, length = recording.path, recording.kind, recording.shape[-1]
        if from_file := recording.sampling_rate_hz:
            if found == "iq" and sampling_rate_hz and abs(sampling_rate_hz / from_file - 1) > 1e-6:
                raise ValueError(
                    f"`sampling_rate_hz`: expected {from_file:g} for {name}, which says so itself, found "
                    f"{sampling_rate_hz:g}"
                )
            sampling_rate_hz = from_file
        window = recording.window
    elif hasattr(item, "getbands"):  # a PIL image
        return "images", item, None
    else:
        if isinstance(item, torch.Tensor):
            item = item.detach().cpu().resolve_conj().resolve_neg()
            item = (item.float() if item.dtype == torch.bfloat16 else item).numpy()
        array = np.asarray(item)
        name = "the input"
        found, arrange = describe(name, array, expected)
        array = arrange(array)
        length = array.shape[1 if found == "iq" else 2]

        def window(start, length):
            return array[:, start : start + length] if found == "iq" else array[..., start : start + length]

    if expected and expected != found:
        raise ValueError(f"expected {kind} in {name}, found {found}")
    if found == "image":
        return "images", window(0, length), None
    if window_length and window_length < length:
        values = window((length - window_length) // 2, window_length)
    elif length > MAX_SAMPLES:
        raise ValueError(
            f"expected at most {MAX_SAMPLES} samples at once, found {length} in {name}; `window_length` takes a "
            "part, `python -m modeling_mmwfm.analyze` goes through the whole"
        )
    else:
        values = window(0, length)
    return found, values, sampling_rate_hz


class MMWFMPipeline(Pipeline):
    """What both tasks share: reading and preparing an input.

    An input is a file name (see `open_recording`), an array (IQ: complex (T,) or (A, T), or real with a last axis of
    2; image-like: (H, W) or (C, H, W); CSI: (antennas, subcarriers, packets); NumPy, torch or PIL), a dictionary with
    such values under "iq", "images" or "csi", or a list of inputs; an array with one more axis in front is a list. What
    an array is, the dictionary decides, or the processor's `kind`; else it is told by type and shape: complex values and
    real pairs are IQ, other real arrays images.

    Args, of the pipeline or of a call:
        datatype, num_antennas: of raw binaries, see `open_recording`.
        sampling_rate_hz: of recordings that do not say it themselves.
        packet_rate_hz, unit: of CSI, see `MMWFMProcessor`.
        chip: of captures of nexmon, see `open_recording`.
        resample: convert to the sampling rate of the model instead of refusing another one.
        views: what to make of IQ: "iq", "spectrogram" or both; default: as the model was trained.
        window_length: take so many samples (packets of CSI) from the middle of longer recordings.
    """

    _load_processor = True
    _load_tokenizer = _load_feature_extractor = _load_image_processor = _load_video_processor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError("expected `processor=` beside a model that is not given by name, found none")
        self.processor = processor_of(self.model, self.processor)
        self.model.eval()
        # `pipeline` has put classes into the model's configuration, which could not be saved so.
        self.model.config.custom_pipelines = custom_pipelines()

    def save_pretrained(self, save_directory, **kwargs):
        """Model and processor in one folder, which `pipeline` opens."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.model.config.save_pretrained(save_directory)  # of an adapter its weights alone have been saved
        self.processor.save_pretrained(save_directory, **kwargs)

    def __call__(self, inputs, **kwargs):
        if isinstance(inputs, (np.ndarray, torch.Tensor)):
            is_complex = inputs.is_complex() if isinstance(inputs, torch.Tensor) else np.iscomplexobj(inputs)
            if inputs.ndim == (3 if is_complex and self.processor.kind != "csi" else 4):
                inputs = list(inputs)
        if isinstance(inputs, (list, tuple)) and len(inputs) == 0:
            raise ValueError("expected at least one input, found an empty list")
        return super().__call__(list(inputs) if isinstance(inputs, tuple) else inputs, **kwargs)

    def _sanitize_parameters(self, **kwargs):
        preprocessing = {name: kwargs.pop(name) for name in PREPROCESSING if name in kwargs}
        postprocessing = {name: kwargs.pop(name) for name in self.postprocessing if name in kwargs}
        if kwargs:
            raise ValueError(f"expected {', '.join([*PREPROCESSING, *self.postprocessing])}, found {sorted(kwargs)}")
        return preprocessing, {}, postprocessing

    def preprocess(
        self,
        inputs,
        datatype: str | None = None,
        num_antennas: int = 1,
        sampling_rate_hz: float | None = None,
        packet_rate_hz: float | None = None,
        unit: str | None = None,
        chip: str | None = None,
        resample: bool = False,
        views: tuple[str, ...] | None = None,
        window_length: int | None = None,
    ) -> dict:
        if window_length is not None and window_length < 1:
            raise ValueError(f"`window_length`: expected at least 1, found {window_length}")
        if isinstance(inputs, dict):
            if unknown := set(inputs) - set(KINDS) or not inputs:
                raise ValueError(f"expected 'iq', 'images' or 'csi' in an input, found {unknown or inputs}")
            parts = dict(inputs)
        else:
            parts = {self.processor.kind: inputs}
        prepared, rates = {}, {}
        for given, item in parts.items():
            options = {"datatype": datatype, "num_antennas": num_antennas, "chip": chip}
            kind, values, rate_hz = read_item(item, given, window_length, sampling_rate_hz, **options)
            prepared[kind], rates[kind] = values, rate_hz
        options = {"resample": resample, "unit": unit}
        if "iq" in prepared:
            options |= {"sampling_rate_hz": rates["iq"], "views": views}
        options["packet_rate_hz"] = packet_rate_hz or rates.get("csi")
        return {"batch": self.processor(**prepared, **options)}


class MMWFMSignalClassificationPipeline(MMWFMPipeline):
    """Class labels with scores, best first; for positioning metres.

    Args, of the pipeline or of a call, beside those of `MMWFMPipeline`:
        top_k: labels returned (default: 5); None returns all.

    Returns:
        for each input `[{"label": str, "score": float}, ...]`, or `[{"label": "x", "metres": float}, ...]`. Where the head
        knows its training rows each entry also holds their "novelty": how far the input lies outside of them, above 1
        farther than 99 % of rows like them.
    """

    postprocessing = ("top_k",)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        check_head(self.model)

    def _forward(self, inputs):
        batches = inputs["batch"] if isinstance(inputs["batch"], list) else [inputs["batch"]]
        outputs = self.model(**merge_batches(batches))
        return {"logits": outputs.logits, "novelty": outputs.get("novelty")}

    def postprocess(self, outputs, top_k: int | None = 5):
        config, logits = self.model.config, outputs["logits"][0].float()
        novelty = {} if outputs.get("novelty") is None else {"novelty": outputs["novelty"].item()}
        if config.problem_type == "regression":
            named = not config.id2label[0].startswith("LABEL_")
            names = [config.id2label[i] if named or len(logits) > 3 else "xyz"[i] for i in range(len(logits))]
            return [{"label": name, "metres": value, **novelty} for name, value in zip(names, logits.tolist())]
        scores, order = logits.softmax(-1).sort(descending=True)
        pairs = zip(order.tolist(), scores.tolist())
        found = [{"label": config.id2label[i], "score": score, **novelty} for i, score in pairs]
        return found[:top_k]


class MMWFMFeatureExtractionPipeline(MMWFMPipeline):
    """The pooled features of the encoder.

    Args, of the pipeline or of a call, beside those of `MMWFMPipeline`:
        return_tensors: a tensor instead of numbers.

    Returns:
        for each input (hidden_size,) numbers, with pooling "mean_std" (2 * hidden_size,).
    """

    postprocessing = ("return_tensors",)

    def _forward(self, inputs):
        batches = inputs["batch"] if isinstance(inputs["batch"], list) else [inputs["batch"]]
        return {"features": pooled_features(self.model, merge_batches(batches))}

    def postprocess(self, outputs, return_tensors: bool = False):
        features = outputs["features"][0].float()
        return features if return_tensors else features.tolist()


def pooled_features(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(B, hidden_size or twice that) from an encoder, or from that of a model with a head or with adapters."""
    if hasattr(model, "get_base_model"):  # PEFT; the adapters are inside the modules
        model = model.get_base_model()
    return model.base_model(**batch).pooler_output


def register_pipelines():
    """Make `pipeline("signal-classification", model=...)` take a model, too, not only a name.

    "feature-extraction" stays what it is for other models; for a model of this package give
    `pipeline_class=MMWFMFeatureExtractionPipeline` beside it.
    """
    PIPELINE_REGISTRY.register_pipeline(
        "signal-classification",
        pipeline_class=MMWFMSignalClassificationPipeline,
        pt_model=AutoModelForSequenceClassification,
        type="multimodal",
    )
