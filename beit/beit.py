"""The BEiT encoder with its classifier (v1 and v2), and its builders."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute
from paddle.nn import functional as F
from yacs.config import CfgNode

from beit.config import head_dim, image_hw
from beit.layers.attention import Attention
from beit.layers.block import LN_EPSILON, Activation, Block
from beit.layers.init import init_uniform, init_weights, make_head, rescale_block, truncated_normal
from beit.layers.layer_norm import LayerNorm
from beit.layers.loadable import Loadable
from beit.layers.outputs import BeitOutput, BlockOutputs, feature_map
from beit.layers.patch_embed import PatchEmbed
from beit.layers.position_resizer import PositionResizer, find_resizer
from beit.layers.relative_position import RelativePositionBias
from beit.layers.timm_methods import TimmMethods
from beit.metadata.class_names import ClassNames
from beit.positions import relative_position_index
from beit.preprocessing import Preprocessing, preprocessing_of

# B batch, L patches, N = L + 1 tokens (class token first), D width, H heads, K classes


class Beit(Loadable, TimmMethods):
    """Encoder and classifier of BEiT and BEiT v2, which differ in their weights only.

    Attribute names are those of the published files; renaming one breaks them.
    Source: arXiv 2106.08254 and 2208.06366; unilm/beit/modeling_finetune.py, `VisionTransformer`.

    Args:
        image_size: (height, width) in pixels.
        patch_size: side of a patch in pixels.
        in_channels: channels of the input: 3 for images; the decoder of VQ-KD reads code vectors.
        num_classes: K; 0 leaves out the head, the model then returns pooled features.
        embed_dim, depth, num_heads: D, number of blocks, heads per block.
        head_dim: channels per head; None for D / heads.
        mlp_ratio: hidden width of the MLPs / D.
        qkv_bias: learn q and v biases.
        qk_scale: factor of q; None for head_dim ** -0.5.
        drop_rate, attn_drop_rate: dropout; drop_path_rate: stochastic depth of the last block, linear from 0.
        init_values: initial LayerScale; 0 for none.
        init_scale: factor on the initial head.
        use_abs_pos_emb: learned absolute positions.
        use_rel_pos_bias: one relative position table per block.
        use_shared_rel_pos_bias: one relative position table for all blocks.
        use_mean_pooling: classify LayerNorm of the mean patch token, else the class token after a LayerNorm.
        epsilon: of all LayerNorms; activation: of the MLPs.
        recompute_blocks: in training, recompute the activations inside blocks in the backward pass.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int] = (224, 224),
        patch_size: int = 16,
        in_channels: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        head_dim: int | None = None,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        init_values: float = 0.1,
        init_scale: float = 0.001,
        use_abs_pos_emb: bool = False,
        use_rel_pos_bias: bool = True,
        use_shared_rel_pos_bias: bool = False,
        use_mean_pooling: bool = True,
        epsilon: float = LN_EPSILON,
        activation: Activation = F.gelu,
        recompute_blocks: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.depth = depth
        self.epsilon = epsilon
        self.init_scale = init_scale
        self.use_mean_pooling = use_mean_pooling
        # How images are prepared and what the classes are called: part of the weights, set by `load_pretrained`.
        self.preprocessing: Preprocessing | None = None
        self.class_names: ClassNames | None = None
        self.recompute_blocks = recompute_blocks

        self.patch_embed = PatchEmbed(
            image_size, patch_size=patch_size, in_channels=in_channels, embed_dim=embed_dim
        )
        grid_size = self.patch_embed.grid_size
        self.cls_token = self.create_parameter([1, 1, embed_dim])
        num_tokens = self.patch_embed.num_patches + 1
        self.pos_embed = self.create_parameter([1, num_tokens, embed_dim]) if use_abs_pos_emb else None
        self.pos_drop = nn.Dropout(drop_rate)
        self.rel_pos_bias = RelativePositionBias(grid_size, num_heads) if use_shared_rel_pos_bias else None
        index = None
        if use_rel_pos_bias or use_shared_rel_pos_bias:
            index = paddle.to_tensor(relative_position_index(grid_size))
        # One index for all blocks; not saved, because it follows from the grid.
        self.register_buffer("relative_position_index", index, persistable=False)

        rates = np.linspace(0.0, drop_path_rate, depth)
        self.blocks = nn.LayerList(
            Block(
                Attention(
                    embed_dim,
                    num_heads=num_heads,
                    head_dim=head_dim,
                    qkv_bias=qkv_bias,
                    scale=qk_scale,
                    attn_drop=attn_drop_rate,
                    proj_drop=drop_rate,
                    grid_size=grid_size if use_rel_pos_bias else None,
                ),
                dim=embed_dim,
                mlp_dim=int(embed_dim * mlp_ratio),
                drop=drop_rate,
                drop_path_rate=float(rate),
                init_values=init_values,
                epsilon=epsilon,
                activation=activation,
            )
            for rate in rates
        )
        self.norm = nn.Identity() if use_mean_pooling else LayerNorm(embed_dim, epsilon=epsilon)
        self.fc_norm = LayerNorm(embed_dim, epsilon=epsilon) if use_mean_pooling else None
        self._init_encoder()
        # Initialized last, so that `build_backbone` followed by `build_head` draws the same random numbers.
        self.head = make_head(embed_dim, num_classes, init_scale) if num_classes else nn.Identity()

    def _init_encoder(self) -> None:
        """Initial values for fine-tuning. Source: unilm/beit/modeling_finetune.py, `_init_weights`, `fix_init_weight`."""
        self.apply(init_weights)
        init_uniform(self.patch_embed.proj)
        truncated_normal(self.cls_token)
        if self.pos_embed is not None:
            truncated_normal(self.pos_embed)
        for number, block in enumerate(self.blocks, start=1):
            rescale_block(block, number)

    def extra_repr(self) -> str:
        """The main sizes of the model, for `repr`."""
        height, width = self.patch_embed.image_size
        return (
            f"{height}x{width} pixels, patches of {self.patch_embed.patch_size}, {self.depth} blocks, "
            f"width {self.embed_dim}, {self.num_classes} classes, "
            f"{sum(parameter.size for parameter in self.parameters()) / 1e6:.1f} M parameters"
        )

    def forward(self, images: paddle.Tensor, *, any_size: bool = False) -> paddle.Tensor:
        """Logits `[B, K]` of normalized images `[B, 3, height, width]`; features `[B, D]` without a head.

        Args:
            images: normalized, `[B, 3, height, width]`.
            any_size: as in `forward_outputs`.
        """
        # Keyword-only, because `paddle.Model` fills every argument by position, here with the labels.
        return self.head(self.forward_features(images, any_size=any_size))

    def forward_features(self, images: paddle.Tensor, any_size: bool = False) -> paddle.Tensor:
        """Pooled features `[B, D]` of normalized images `[B, 3, height, width]`: what the head classifies.

        timm's method of this name returns tokens; those are `forward_outputs(images).last_hidden_state`.

        Args:
            images: normalized, `[B, 3, height, width]`.
            any_size: as in `forward_outputs`.
        """
        resizer = find_resizer(self.patch_embed, images) if any_size else None
        x = self.add_class_token(self.patch_embed(images, any_size), resizer)
        return self.pool(self.run_blocks(x, resizer=resizer).last)

    def feature_maps(self, images: paddle.Tensor, blocks: Sequence[int]) -> list[paddle.Tensor]:
        """The output patch tokens of chosen blocks as maps `[B, D, h, w]`, for images of any size in whole patches.

        Args:
            images: normalized, `[B, 3, height, width]`.
            blocks: numbers of the blocks, from 0; no block after the last of them runs.

        Raises:
            ValueError: as `forward_outputs`.
        """
        outputs = self.forward_outputs(images, hidden_states=blocks, final=False, any_size=True)
        grid = [side // self.patch_embed.patch_size for side in images.shape[2:]]
        return [feature_map(tokens, grid) for tokens in outputs.hidden_states]

    def extract_feat(self, images: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        """`forward_features` as mmpretrain returns it, a tuple of one tensor; `beit.extract_feat` takes image files."""
        return (self.forward_features(images),)

    def forward_outputs(
        self,
        images: paddle.Tensor,
        hidden_states: Sequence[int] = (),
        attentions: Sequence[int] = (),
        final: bool = True,
        any_size: bool = False,
    ) -> BeitOutput:
        """Tokens, pooled features, and the hidden states and attention weights of chosen blocks.

        transformers' `hidden_states[i + 1]` is block i here; its first entry is `embed(images)`.

        Args:
            images: normalized, `[B, 3, height, width]`.
            hidden_states: blocks (from 0) whose output tokens are returned, in this order.
            attentions: blocks (from 0) whose attention weights are returned, in this order.
            final: also compute `last_hidden_state` and `pooler_output`; False stops after the last block asked for.
            any_size: the images may have any size in whole patches. Positions are then resized with the rule of
                loading (`beit.positions`).

        Raises:
            ValueError: the image size is not the model's (without `any_size`), or a block does not exist.
        """
        wanted = {*hidden_states, *attentions}
        unknown = sorted(number for number in wanted if not 0 <= number < self.depth)
        if unknown:
            raise ValueError(f"blocks {unknown} do not exist; the model has blocks 0 to {self.depth - 1}")
        resizer = find_resizer(self.patch_embed, images) if any_size else None
        x = self.add_class_token(self.patch_embed(images, any_size), resizer)
        blocks = list(self.blocks) if final else list(self.blocks)[: max(wanted, default=-1) + 1]
        outputs = self.run_blocks(x, blocks, hidden_states, attentions, resizer)
        return BeitOutput(
            last_hidden_state=self.norm(outputs.last) if final else None,
            pooler_output=self.pool(outputs.last) if final else None,
            hidden_states=tuple(outputs.hidden_states[number] for number in hidden_states),
            attentions=tuple(outputs.attentions[number] for number in attentions),
        )

    def embed(self, images: paddle.Tensor) -> paddle.Tensor:
        """Tokens `[B, N, D]` before the first block."""
        return self.add_class_token(self.patch_embed(images))

    def add_class_token(self, x: paddle.Tensor, resizer: PositionResizer | None = None) -> paddle.Tensor:
        """Tokens `[B, N, D]` before the first block from patch embeddings `[B, L, D]`; adds absolute positions."""
        cls_token = self.cls_token.expand([x.shape[0], -1, -1]).astype(x.dtype)
        x = paddle.concat([cls_token, x], axis=1)  # [B, N, D]
        if self.pos_embed is not None:
            x = x + (self.pos_embed if resizer is None else resizer.positions(self.pos_embed))
        return self.pos_drop(x)

    def run_blocks(
        self,
        x: paddle.Tensor,
        blocks: Sequence[Block] | None = None,
        hidden_states: Collection[int] = (),
        attentions: Collection[int] = (),
        resizer: PositionResizer | None = None,
    ) -> BlockOutputs:
        """Run the blocks on tokens `[B, N, D]`.

        Args:
            x: tokens before the first of these blocks.
            blocks: some of the model's blocks, or other blocks on the same grid; None for all of the model's.
            hidden_states, attentions: numbers of the blocks whose outputs and attention weights are kept.
            resizer: reads position tables for a grid that is not the model's.
        """
        index = self.relative_position_index if resizer is None else None
        shared_bias = None
        if self.rel_pos_bias is not None:
            shared_bias = self.rel_pos_bias(index) if resizer is None else resizer.bias(self.rel_pos_bias)
        kept_states, kept_weights = {}, {}
        for number, block in enumerate(self.blocks if blocks is None else blocks):
            bias = shared_bias if resizer is None else resizer.bias(block.attn, shared_bias)
            if number in attentions:
                kept_weights[number] = block.attn.weights(block.norm1(x), bias, index)
            if self.recompute_blocks and self.training:
                # Paddle's reentrant form gives no gradients to a block whose input needs none, and its backward pass
                # inside of the backward pass breaks DataParallel.
                x = recompute(block, x, bias, index, use_reentrant=False)
            else:
                x = block(x, bias, index)
            if number in hidden_states:
                kept_states[number] = x
        return BlockOutputs(x, kept_states, kept_weights)

    def pool(self, x: paddle.Tensor) -> paddle.Tensor:
        """Pooled features `[B, D]` of the tokens `[B, N, D]` after the last block."""
        x = self.norm(x)
        if self.fc_norm is None:
            return x[:, 0]
        return self.fc_norm(x[:, 1:].mean(1))

    def layer_id(self, name: str) -> int:
        """Layer of a parameter for layer-wise learning rate decay: 0 embedding, i + 1 block i, depth + 1 the rest.

        Source: unilm/beit/optim_factory.py, `get_num_layer_for_vit`.
        """
        if name in ("cls_token", "mask_token", "pos_embed") or name.startswith("patch_embed."):
            return 0
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        return self.depth + 1

    def freeze_layers(self, count: int) -> None:
        """Freeze the first `count` layers (1: the embedding; k + 1: also the first k blocks)."""
        for name, parameter in self.named_parameters():
            if self.layer_id(name) < count:
                parameter.stop_gradient = True


def build_beit(config: CfgNode) -> Beit:
    """Build the classifier that a config describes, with initial weights.

    Args:
        config: tree of `get_config`. `MODEL.*`, `DATA.IMAGE_SIZE` and `TRAIN.RECOMPUTE` decide the network, other keys
            of `DATA` its `preprocessing`.
    """
    return _build(config, config.MODEL.NUM_CLASSES)


def build_backbone(config: CfgNode) -> Beit:
    """Build the encoder of a config without head: images to pooled features `[B, D]` (PASSL's layout).

    Args:
        config: tree of `get_config`.
    """
    return _build(config, 0)


def build_head(config: CfgNode) -> nn.Linear:
    """Build only the head of a config, features `[B, D]` to logits `[B, K]`.

    `build_head(config)(build_backbone(config)(x))` equals `build_beit(config)(x)`.

    Args:
        config: tree of `get_config`.

    Raises:
        ValueError: the config has no classes.
    """
    if not config.MODEL.NUM_CLASSES:
        raise ValueError("MODEL.NUM_CLASSES = 0 has no head; set the number of classes")
    return make_head(config.MODEL.EMBED_DIM, config.MODEL.NUM_CLASSES, config.MODEL.INIT_SCALE)


def _build(config: CfgNode, num_classes: int) -> Beit:
    model = Beit(
        num_classes=num_classes,
        init_scale=config.MODEL.INIT_SCALE,
        use_mean_pooling=config.MODEL.USE_MEAN_POOLING,
        **encoder_arguments(config),
    )
    model.preprocessing = preprocessing_of(config)
    return model


def encoder_arguments(config: CfgNode) -> dict[str, Any]:
    """The arguments of `Beit` for the encoder of a config, without pooling and head."""
    model = config.MODEL
    return {
        "image_size": image_hw(config),
        "patch_size": model.PATCH_SIZE,
        "embed_dim": model.EMBED_DIM,
        "depth": model.DEPTH,
        "num_heads": model.NUM_HEADS,
        "head_dim": head_dim(config),
        "mlp_ratio": model.MLP_RATIO,
        "qkv_bias": model.QKV_BIAS,
        "qk_scale": model.QK_SCALE,
        "drop_rate": model.DROPOUT,
        "attn_drop_rate": model.ATTENTION_DROPOUT,
        "drop_path_rate": model.DROPPATH,
        "epsilon": model.LAYER_NORM_EPS,
        "init_values": model.INIT_VALUES,
        "use_abs_pos_emb": model.USE_ABS_POS_EMB,
        "use_rel_pos_bias": model.USE_REL_POS_BIAS,
        "use_shared_rel_pos_bias": model.USE_SHARED_REL_POS_BIAS,
        "recompute_blocks": config.TRAIN.RECOMPUTE,
    }
