"""Checks that answer in sentences: hand one your function, and it says what is wrong and where.

``CHECKS`` lists them all by name, in the order of the six assignments in ``book/homework``.
"""

from vlmcourse.homework import attention, contrastive, language, patches, video, vlm
from vlmcourse.homework.attention import (
    check_attention,
    check_attention_weights,
    check_multi_head,
    check_transformer_block,
)
from vlmcourse.homework.checking import Case, Check, Draw, Report, check, checks_of
from vlmcourse.homework.contrastive import (
    check_nt_xent,
    check_pair_logits,
    check_partners,
    check_standardise,
    check_unit,
)
from vlmcourse.homework.language import (
    check_causal_mask,
    check_generate,
    check_kv_cache,
    check_sampling,
    check_shifted_loss,
)
from vlmcourse.homework.patches import check_patch_embed, check_patchify, check_unpatchify
from vlmcourse.homework.reference import band, is_mine_normal, recorded, stretches
from vlmcourse.homework.video import check_conv3d, check_output_size, check_shuffle_frames
from vlmcourse.homework.vlm import check_connector, check_controls, check_splice, check_stages

CHECKS = dict(checks_of(patches, attention, contrastive, video, language, vlm))

__all__ = [
    "CHECKS",
    "Case",
    "Check",
    "Draw",
    "Report",
    "band",
    "check",
    "check_attention",
    "check_attention_weights",
    "check_causal_mask",
    "check_connector",
    "check_controls",
    "check_conv3d",
    "check_generate",
    "check_kv_cache",
    "check_multi_head",
    "check_nt_xent",
    "check_output_size",
    "check_pair_logits",
    "check_partners",
    "check_patch_embed",
    "check_patchify",
    "check_sampling",
    "check_shifted_loss",
    "check_shuffle_frames",
    "check_splice",
    "check_stages",
    "check_standardise",
    "check_transformer_block",
    "check_unit",
    "check_unpatchify",
    "is_mine_normal",
    "recorded",
    "stretches",
]
