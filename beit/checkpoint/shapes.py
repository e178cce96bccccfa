"""Which shapes the tensors of a canonical state have, and that those of a file agree with each other."""

from __future__ import annotations

import re
from collections.abc import Mapping

from beit.checkpoint.canonical import BACKBONE_PREFIX, SHARED_TABLE, TABLE
from beit.containers.errors import CheckpointError, shown

# D width, E width of all attention heads together, M width of the MLP, H heads, T table rows, N tokens, P patch side,
# C color channels, K classes, V codes of pre-training, O output of CLIP, Q codes of a tokenizer, W their width.
# Capital letters stand for one number in a whole encoder, small letters (i in, o out, k kernel) in one layer.
_AXES: tuple[tuple[str, str], ...] = (
    (r"cls_token|mask_token", "1 1 D"),
    ("pos_embed", "1 N D"),
    (r"patch_embed\.proj\.weight", "D C P P"),
    (r"patch_embed\.proj\.bias", "D"),
    (rf"{re.escape(SHARED_TABLE)}|.*\.attn\.{TABLE}", "T H"),
    (r".*\.gamma_[12]|(.*\.)?(cls_pt_|fc_|pre_)?norm[12]?\.(weight|bias)", "D"),
    (r".*\.attn\.qkv\.weight", "D 3E"),
    (r".*\.attn\.[qv]_bias", "E"),
    (r".*\.attn\.proj\.weight", "E D"),
    (r".*\.(attn\.proj|mlp\.fc2)\.bias", "D"),
    (r".*\.mlp\.fc1\.weight", "D M"),
    (r".*\.mlp\.fc1\.bias", "M"),
    (r".*\.mlp\.fc2\.weight", "M D"),
    (r"head\.weight", "D K"),
    (r"head\.bias", "K"),
    (r"(cls_pt_)?lm_head\.weight", "D V"),
    (r"(cls_pt_)?lm_head\.bias", "V"),
    (r"proj\.weight", "D O"),
    (r"quantize\.embedding\.(weight|embed_avg)", "Q W"),
    (r"quantize\.(embedding\.)?cluster_size", "Q"),
    (r"(en|de)code_task_layer\.\d\.weight", "i o"),
    (r"fpn[12]\.[03]\.weight", "i o k k"),  # transposed convolutions
    (r".*\.(conv|conv_seg)\.weight|blocks\..*\.w|blocks\.input\.w", "o i k k"),
    (r"(en|de)code_task_layer\.\d\.bias|fpn[12]\.[03]\.bias|.*\.conv_seg\.bias|blocks\..*\.b", "o"),
    (r"(.*\.bn|fpn1\.1)\.(weight|bias|_mean|_variance)", "o"),
)
_SCOPES = (BACKBONE_PREFIX, "encoder.", "decoder.")


def check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the shapes of a canonical state with each other.

    Args:
        shapes: by canonical name.
    Raises:
        CheckpointError: a tensor is empty, has another number of axes than its name says, or contradicts another one.
    """
    known: dict[
        str, tuple[int, str]
    ] = {}  # letter and where it holds -> its number, and the tensor that has it
    for name, shape in shapes.items():
        scope = next((prefix for prefix in _SCOPES if name.startswith(prefix)), "")
        layer = re.sub(r"\.(conv|bn)$", "", name.rpartition(".")[0])
        axes = next(
            (axes.split() for pattern, axes in _AXES if re.fullmatch(pattern, name[len(scope) :])), None
        )
        expected, origins = [], {}
        for axis, size in zip(axes or (), shape, strict=False):
            factor, letter = int(axis[:-1] or 1), axis[-1]
            if letter.isdigit():
                expected.append(int(axis))
                continue
            place = f"{layer}.{letter}" if letter.islower() else f"{scope}{letter}"
            number, origin = known.setdefault(place, (size // factor, name))
            expected.append(factor * number)
            if origin != name:
                origins[f"{letter} = {number}"] = shown(origin)
        if 0 in shape:
            raise CheckpointError(f"tensor {shown(name)} is empty: its shape is {list(shape)}")
        if axes and (len(shape) != len(axes) or list(shape) != expected):
            known_from = ", ".join(f"{what} ({origin})" for what, origin in origins.items())
            raise CheckpointError(
                f"tensor {shown(name)} has shape {list(shape)}, expected [{', '.join(axes)}]"
                + (f" with {known_from}" if known_from else "")
            )
