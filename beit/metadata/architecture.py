"""Kinds of models, and the sizes and parts of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from beit.positions import Grid
from beit.preprocessing import ImageSize, as_size

# Kinds of models
CLASSIFIER = "classifier"
BACKBONE = "backbone"  # a classifier without its head
MIM_V1 = "mim_v1"
MIM_V2 = "mim_v2"  # with the two patch aggregation blocks
VQKD = "vqkd"
DALLE_ENCODER = "dalle_encoder"
DALLE_DECODER = "dalle_decoder"
SEGMENTATION = "segmentation"
CLIP = "clip"  # the vision transformer of CLIP and that of DINO: teachers of VQ-KD
DINO = "dino"
MIM = (MIM_V1, MIM_V2)
DALLE = (DALLE_ENCODER, DALLE_DECODER)

NATIVE = "canonical"
"""The publisher of this package's own files (`python -m beit convert --to canonical`)."""


class DalleSizes(NamedTuple):
    """Sizes of DALL-E's encoder or decoder; 0 for what the file lacks."""

    groups: int
    blocks: int  # of a group
    channels_in: int  # of the first convolution
    width: int  # outputs of the first convolution
    width_out: int  # inputs of the last convolution
    channels_out: int  # outputs of the last convolution


@dataclass(frozen=True)
class Architecture:
    """Sizes and parts of a model, derived from the names and shapes of its tensors; 0 for unknown ones."""

    depth: int
    width: int
    num_heads: int  # 0 if unknown: no position table, no file states it, no published model has this width
    head_dim: int  # channels per head
    mlp_width: int
    patch_size: int
    grid_size: Grid | None  # (h, w) in patches
    num_classes: int
    pooling: str  # "mean", "token", or "" without a final norm
    has_layer_scale: bool
    has_absolute_positions: bool
    has_relative_positions: bool
    has_shared_relative_positions: bool
    has_query_bias: bool  # and one of the values
    has_mask_token: bool
    num_codes: int  # that a masked image model predicts, or that a VQ-KD has
    decoder_channels: int  # of a segmentation model, like the next two
    auxiliary_channels: int
    auxiliary_convs: int
    dalle: DalleSizes | None  # of DALL-E, for which the fields above are 0, False or None

    @property
    def image_size(self) -> ImageSize | None:
        """Side, or (height, width), in pixels of the images whose patches fill the grid."""
        return as_size([side * self.patch_size for side in self.grid_size]) if self.grid_size else None
