"""Semantic segmentation: UPerNet on the BEiT encoder."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import nn
from paddle.nn import functional as F
from yacs.config import CfgNode

from beit.beit import Beit, build_backbone
from beit.layers.batch_norm import SyncBatchNorm
from beit.layers.init import init_uniform
from beit.layers.loadable import Loadable
from beit.metadata.info import PUBLISHED_LAYERS
from beit.models.segmentation_heads import FcnHead, UperHead

# B batch, N tokens (class token first), D width, P patch side, h = H / P, w = W / P, K classes

AUXILIARY_LEVEL = 2
"""Level of the pyramid on which the auxiliary head works: stride 16."""


class UperNet(Loadable):
    """BEiT encoder with a feature pyramid of four levels, UPerHead, and in training an auxiliary head.

    Source: arXiv 2106.08254, section 3.3; unilm/beit/semantic_segmentation.

    Args:
        backbone: encoder without classifier. It is changed: its final norm is removed, the pyramid's layers are added.
        out_indices: the four blocks (from 0) whose outputs form the pyramid, from fine to coarse.
        num_classes: K.
        channels: channels inside UPerHead.
        auxiliary_channels: channels inside the auxiliary head; 0 for no auxiliary head.
        pool_scales: side lengths of the pooled maps in UPerHead.
        dropout: probability with which both heads drop a channel before the classifier, in [0, 1).

    Raises:
        ValueError: `out_indices` are not four blocks of the encoder.
    """

    def __init__(
        self,
        backbone: Beit,
        *,
        out_indices: Sequence[int],
        num_classes: int,
        channels: int,
        auxiliary_channels: int = 256,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if len(out_indices) != 4 or not all(0 <= i < backbone.depth for i in out_indices):
            raise ValueError(
                f"MODEL.OUT_INDICES={list(out_indices)}: expected four blocks of 0 to {backbone.depth - 1}"
            )
        self.out_indices = tuple(out_indices)
        self.num_classes = num_classes
        self.depth = backbone.depth
        self.backbone = backbone
        width = backbone.embed_dim
        # The features are block outputs, so the final norm and later blocks receive no gradient, for which
        # DataParallel would wait: the norm is removed and the blocks are frozen.
        backbone.norm, backbone.fc_norm = nn.Identity(), None
        for block in list(backbone.blocks)[max(out_indices) + 1 :]:
            for parameter in block.parameters():
                parameter.stop_gradient = True
        add_pyramid(backbone, width)  # in published files these layers belong to the encoder
        self.decode_head = UperHead(
            width, channels=channels, num_classes=num_classes, pool_scales=pool_scales, dropout=dropout
        )
        self.auxiliary_head = None
        if auxiliary_channels:
            self.auxiliary_head = FcnHead(
                width, channels=auxiliary_channels, num_classes=num_classes, dropout=dropout
            )

    def forward(self, images: paddle.Tensor) -> paddle.Tensor | dict[str, paddle.Tensor]:
        """Logits `[B, K, 4h, 4w]` in evaluation mode; a dict in training mode.

        The dict has these logits as `"logits"`, and with an auxiliary head its logits `[B, K, h, w]` as `"auxiliary"`.

        Args:
            images: normalized, `[B, 3, H, W]`; H and W are multiples of P and at least 2 P. For sizes other than the
                model's, positions are resized (see `Beit.forward_outputs`).

        Raises:
            ValueError: H or W is not such a number.
        """
        pyramid = self.pyramid(images)
        logits = self.decode_head(pyramid)
        if not self.training:
            return logits
        if self.auxiliary_head is None:
            return {"logits": logits}
        return {"logits": logits, "auxiliary": self.auxiliary_head(pyramid[AUXILIARY_LEVEL])}

    def pyramid(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        """Feature maps `[B, D, 4h, 4w]`, `[B, D, 2h, 2w]`, `[B, D, h, w]`, `[B, D, h/2, w/2]`.

        Raises:
            ValueError: the images are smaller than two patches, or not a multiple of the patch size.
        """
        check_pyramid_size(images, self.backbone.patch_embed.patch_size)
        return run_pyramid(self.backbone, self.backbone.feature_maps(images, self.out_indices))

    def layer_id(self, name: str) -> int:
        """Layer of a parameter for layer-wise rate decay; pyramid and heads are the last layer, with the full rate.

        Source: unilm/beit/semantic_segmentation/mmcv_custom/layer_decay_optimizer_constructor.py.
        """
        prefix, _, inner = name.partition(".")
        return self.backbone.layer_id(inner) if prefix == "backbone" else self.depth + 1

    def freeze_layers(self, count: int) -> None:
        """Freeze the first `count` layers of the encoder (1: the embedding, k + 1: also the first k blocks)."""
        self.backbone.freeze_layers(count)


def add_pyramid(layer: nn.Layer, width: int) -> None:
    """Give a layer the sublayers `fpn1` and `fpn2`, which enlarge maps of `width` channels four and two times."""
    layer.fpn1 = nn.Sequential(_upsample(width), SyncBatchNorm(width), nn.GELU(), _upsample(width))
    layer.fpn2 = nn.Sequential(_upsample(width))


def check_pyramid_size(images: paddle.Tensor, patch_size: int) -> None:
    """Refuse images `[B, C, H, W]` with less than two patches in height or width: their coarsest map would be empty.

    Raises:
        ValueError: they are smaller.
    """
    height, width = images.shape[2:]
    if min(height // patch_size, width // patch_size) == 1:
        raise ValueError(
            f"images of {height}x{width} pixels are too small for the pyramid: pad them to {2 * patch_size} or more"
        )


def run_pyramid(layer: nn.Layer, maps: Sequence[paddle.Tensor]) -> list[paddle.Tensor]:
    """Maps `[B, D, 4h, 4w]`, `[B, D, 2h, 2w]`, `[B, D, h, w]`, `[B, D, h/2, w/2]`.

    Args:
        layer: with the sublayers of `add_pyramid`.
        maps: four maps `[B, D, h, w]`.
    """
    return [
        layer.fpn1(maps[0]),
        layer.fpn2(maps[1]),
        maps[2],
        F.max_pool2d(maps[3], kernel_size=2, stride=2),
    ]


def _upsample(width: int) -> nn.Conv2DTranspose:
    """Transposed convolution that doubles the size, with PyTorch's default initial values."""
    conv = nn.Conv2DTranspose(width, width, kernel_size=2, stride=2)
    init_uniform(conv)
    return conv


def build_upernet(config: CfgNode) -> UperNet:
    """The segmentation model of a config, with random weights.

    Args:
        config: read are `MODEL.*`, `DATA.IMAGE_SIZE` and `TRAIN.RECOMPUTE`.

    Examples:
        model = beit.build_upernet(beit.get_config("upernet_beit_base_patch16_512_pt22k"))

    Raises:
        ValueError: the config has no classes, or `MODEL.OUT_INDICES` is missing or does not fit `MODEL.DEPTH`.
    """
    model = config.MODEL
    if not model.NUM_CLASSES:
        raise ValueError("MODEL.NUM_CLASSES = 0; segmentation needs classes to tell apart")
    out_indices = model.OUT_INDICES or PUBLISHED_LAYERS.get(model.DEPTH)
    if out_indices is None:
        raise ValueError(
            f"MODEL.OUT_INDICES is not set and no published model has MODEL.DEPTH={model.DEPTH}; name four blocks "
            f"from 0 to {model.DEPTH - 1}, such as [0, 1, 2, 3]"
        )
    return UperNet(
        build_backbone(config),
        out_indices=out_indices,
        num_classes=model.NUM_CLASSES,
        channels=model.DECODER_CHANNELS or model.EMBED_DIM,
        auxiliary_channels=model.AUXILIARY_CHANNELS,
        pool_scales=model.POOL_SCALES,
        dropout=model.DECODER_DROPOUT,
    )
