"""A compact, readable library for a lecture on vision: patches, attention, convolution, contrast.

Every public name can be imported from here, ``from vlmcourse import patchify``. Names are resolved on
first use, so that ``import vlmcourse`` itself costs next to nothing and ``vlmcourse.ops`` never pulls in
matplotlib or scikit-learn.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    # the formulas
    "patchify": "vlmcourse.ops.patches",
    "unpatchify": "vlmcourse.ops.patches",
    "PatchEmbed": "vlmcourse.ops.patches",
    "attention_weights": "vlmcourse.ops.attention",
    "self_attention": "vlmcourse.ops.attention",
    "MultiHeadSelfAttention": "vlmcourse.ops.attention",
    "conv3d": "vlmcourse.ops.convolution",
    "Conv3d": "vlmcourse.ops.convolution",
    "receptive_field": "vlmcourse.ops.convolution",
    "slide_contrastive_loss": "vlmcourse.ops.contrastive",
    "nt_xent_loss": "vlmcourse.ops.contrastive",
    "info_nce_loss": "vlmcourse.ops.contrastive",
    "alignment": "vlmcourse.ops.contrastive",
    "uniformity": "vlmcourse.ops.contrastive",
    # inputs
    "scenes": "vlmcourse.data",
    "load_dataset": "vlmcourse.data.datasets",
    "ImageDataset": "vlmcourse.data.datasets",
    "image_folder": "vlmcourse.data.datasets",
    "video_folder": "vlmcourse.data.videos",
    "VideoDataset": "vlmcourse.data.videos",
    "two_views": "vlmcourse.data.augment",
    "MLP": "vlmcourse.models.transformer",
    "ConvEncoder": "vlmcourse.models.cnn",
    "TransformerBlock": "vlmcourse.models.transformer",
    "SlideViT": "vlmcourse.models.vit",
    "VisionTransformer": "vlmcourse.models.vit",
    "Tokenizer": "vlmcourse.models.tokenizer",
    "LanguageModel": "vlmcourse.models.language_model",
    "Connector": "vlmcourse.models.connector",
    "VisionLanguageModel": "vlmcourse.models.vlm",
    "save_vlm": "vlmcourse.models.vlm",
    "load_vlm": "vlmcourse.models.vlm",
    "PretrainedVLM": "vlmcourse.models.pretrained",
    "FrameAverage": "vlmcourse.models.video",
    "CNNLSTM": "vlmcourse.models.video",
    "CNNTransformer": "vlmcourse.models.video",
    "CNN3D": "vlmcourse.models.video",
    # experiments
    "device": "vlmcourse.train.runtime",
    "seed_everything": "vlmcourse.train.runtime",
    "profile": "vlmcourse.course.runtime",
    "pick": "vlmcourse.course.runtime",
    "fit": "vlmcourse.train.loop",
    "extract_features": "vlmcourse.train.probe",
    "LinearProbe": "vlmcourse.train.probe",
    "knn_accuracy": "vlmcourse.train.probe",
    "shipped_vlm": "vlmcourse.course.shipped",
    "record_result": "vlmcourse.course.results",
    "load_result": "vlmcourse.course.results",
    "glue": "vlmcourse.course.results",
    "Chapter": "vlmcourse.course.chapter",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'vlmcourse' has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value  # the next access finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
