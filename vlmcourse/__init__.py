"""A compact, readable library for a lecture on vision: patches, attention, convolution, contrast.

What chapters and homework use can be imported from here, and is loaded on first use: ``import vlmcourse`` costs next to
nothing. The types are in ``__init__.pyi``.
"""

import dis
import sys
from difflib import get_close_matches
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_ROOMS = {
    "ops.patches": "patchify unpatchify PatchEmbed",
    "ops.attention": "attention_weights self_attention MultiHeadSelfAttention",
    "ops.convolution": "conv3d Conv3d receptive_field",
    "ops.contrastive": "slide_contrastive_loss nt_xent_loss info_nce_loss alignment uniformity",
    "models.transformer": "MLP TransformerBlock",
    "models.cnn": "ConvEncoder",
    "models.vit": "SlideViT VisionTransformer",
    "models.video": "FrameAverage CNNLSTM CNNTransformer CNN3D sinusoids",
    "models.tokenizer": "Tokenizer",
    "models.language_model": "LanguageModel next_token_loss next_token_probabilities",
    "models.connector": "Connector",
    "models.vlm": "PROMPT Answer VisionLanguageModel save_vlm load_vlm",
    "data": "scenes",
    "data.datasets": "ImageDataset load_dataset image_folder",
    "data.videos": "VideoDataset video_folder",
    "data.questions": "KINDS questions",
    "data.augment": "two_views SCENE_STEPS SIMCLR_STEPS random_affine random_horizontal_flip random_resized_crop"
    " rotate_shift_scale",
    "train.runtime": "device seed_everything",
    "train.loop": "fit",
    "train.checkpoints": "save_checkpoint load_checkpoint",
    "train.distributed": "gather_embeddings shared_nt_xent_loss",
    "train.probe": "extract_features LinearProbe SegmentationProbe knn_accuracy labels_per_class mean_iou",
    "train.simclr": "train_simclr",
    "train.vlm": "train_vlm",
    "homework.patches": "check_patchify check_unpatchify check_patch_embed",
    "homework.attention": "check_attention_weights check_attention check_multi_head check_transformer_block",
    "homework.contrastive": "check_unit check_partners check_pair_logits check_nt_xent check_standardise",
    "homework.video": "check_conv3d check_output_size check_shuffle_frames",
    "homework.language": "check_causal_mask check_shifted_loss check_sampling check_kv_cache check_generate",
    "homework.vlm": "check_connector check_splice check_stages check_controls",
    "course.runtime": "profile pick",
    "course.results": "record_result load_result glue",
    "course.chapter": "Chapter",
    "course.shipped": "shipped_vlm Familiarity",
    "course.figures": "plots",
    "course.figures.interactive": "attention_picture contrastive_circle path_picture",
    "course.figures.player": "clip_player",
    "course.figures.field_viewer": "field_viewer",
    "course.figures.forced_word": "forced_word",
    "course.figures.patch_slider": "patch_slider",
    "course.figures.stepper": "convolution_stepper",
}
_EXPORTS = {name: f"vlmcourse.{room}" for room, names in _ROOMS.items() for name in names.split()}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        near = get_close_matches(name, __all__, n=3) or __all__
        message = f"module 'vlmcourse' has no attribute {name!r}; public names: {', '.join(near)}"
        caller = sys._getframe(1)
        # ``from vlmcourse import name`` swallows an AttributeError together with its advice.
        if dis.opname[caller.f_code.co_code[caller.f_lasti]] == "IMPORT_FROM":
            raise ImportError(message)
        raise AttributeError(message)
    room = import_module(_EXPORTS[name])
    value = getattr(room, name) if hasattr(room, name) else import_module(f"{_EXPORTS[name]}.{name}")
    globals()[name] = value  # the next access finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
