"""Multimodal wireless foundation model: IQ streams and image-like wireless data in one encoder."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoProcessor,
)

from .configuration_iqfm import IQFMConfig
from .configuration_mmwfm import MMWFMConfig
from .feature_extraction_mmwfm import MMWFMFeatureExtractor
from .image_processing_mmwfm import MMWFMImageProcessor
from .modeling_iqfm import IQFMForPreTraining, IQFMForSequenceClassification, IQFMModel
from .modeling_mmwfm import MMWFMForPreTraining, MMWFMForSequenceClassification, MMWFMModel
from .pipeline_mmwfm import register_pipelines
from .processing_mmwfm import MMWFMProcessor

__version__ = "0.1.0"

ESTIMATORS = ("MMWFMClassifier", "MMWFMEmbedder", "MMWFMRegressor")


def __getattr__(name: str):
    """The estimators bring scikit-learn and peft with them, of the extra `train`: only where they are asked for."""
    if name in ESTIMATORS:
        from . import estimators_mmwfm

        return getattr(estimators_mmwfm, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    *ESTIMATORS,
    "IQFMConfig",
    "IQFMForPreTraining",
    "IQFMForSequenceClassification",
    "IQFMModel",
    "MMWFMConfig",
    "MMWFMFeatureExtractor",
    "MMWFMForPreTraining",
    "MMWFMForSequenceClassification",
    "MMWFMImageProcessor",
    "MMWFMModel",
    "MMWFMProcessor",
]

# With the package installed the Auto classes know it and no remote code is needed ...
AutoConfig.register("mmwfm", MMWFMConfig)
AutoModel.register(MMWFMConfig, MMWFMModel)
AutoModelForPreTraining.register(MMWFMConfig, MMWFMForPreTraining)
for auto_class in (
    AutoModelForSequenceClassification,
    AutoModelForImageClassification,
    AutoModelForAudioClassification,
):
    auto_class.register(MMWFMConfig, MMWFMForSequenceClassification)
AutoConfig.register("iqfm", IQFMConfig)
AutoModel.register(IQFMConfig, IQFMModel)
AutoModelForPreTraining.register(IQFMConfig, IQFMForPreTraining)
for auto_class in (AutoModelForSequenceClassification, AutoModelForAudioClassification):
    auto_class.register(IQFMConfig, IQFMForSequenceClassification)
AutoFeatureExtractor.register(IQFMConfig, MMWFMFeatureExtractor)
AutoProcessor.register(IQFMConfig, MMWFMProcessor)
AutoFeatureExtractor.register(MMWFMConfig, MMWFMFeatureExtractor)
AutoImageProcessor.register(MMWFMConfig, slow_image_processor_class=MMWFMImageProcessor)
AutoProcessor.register(MMWFMConfig, MMWFMProcessor)

register_pipelines()

# ... and every saved folder carries the code, so that it opens without the package.
MMWFMConfig.register_for_auto_class()
MMWFMModel.register_for_auto_class("AutoModel")
MMWFMForPreTraining.register_for_auto_class("AutoModelForPreTraining")
MMWFMForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
IQFMConfig.register_for_auto_class()
IQFMModel.register_for_auto_class("AutoModel")
IQFMForPreTraining.register_for_auto_class("AutoModelForPreTraining")
IQFMForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
MMWFMFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
MMWFMImageProcessor.register_for_auto_class("AutoImageProcessor")
MMWFMProcessor.register_for_auto_class("AutoProcessor")
