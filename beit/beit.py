"""The BEiT encoder with its classifier (v1 and v2), and its builders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute
from yacs.config import CfgNode

from beit.checkpoint.class_names import ClassNames
from beit.checkpoint.dialects.preprocessing import Preprocessing, preprocessing_of
from beit.config import image_hw
from beit.layers.attention import Attention
from beit.layers.block import LN_EPSILON, Block, draw_paths
from beit.layers.divided_blocks import Run, is_divided, run_divided
from beit.layers.divided_tokens import run_by_tokens
from beit.layers.grid_change import GridChange, change_grid
from beit.layers.init import init_convolution, init_weights, make_head, rescale_block, truncated_normal
from beit.layers.patch_embed import PatchEmbed
from beit.layers.relative_position import RelativePositionBias, relative_position_index

# B batch, L patches, N = L + 1 tokens (class token first), D width, H heads, K classes


@dataclass(frozen=True)
class BeitOutput:
    """What the encoder makes of images, under the names transformers has for it.

    `last_hidden_state` is `[B, N, D]` after the final norm where the model has one (class token pooling),
    `pooler_output` `[B, D]` the features that are classified. `hidden_states` `[B, N, D]` and `attentions`
    `[B, H, N, N]` (rows sum to 1) are those of the blocks that were asked for, in that order.
    """

    last_hidden_state: paddle.Tensor
    pooler_output: paddle.Tensor
    hidden_states: tuple[paddle.Tensor, ...] = ()
    attentions: tuple[paddle.Tensor, ...] = ()


class Beit(nn.Layer):
    """Encoder and classifier of BEiT and BEiT v2, which differ in their weights only.

    Attribute names are those of the published files; renaming one breaks them.
    Source: arXiv 2106.08254 and 2208.06366; unilm/beit/modeling_finetune.py, `VisionTransformer`.

    Args:
        image_size: (height, width) in pixels.
        patch_size: side of a patch in pixels.
        in_channels: channels of the input; the decoder of VQ-KD reads code vectors.
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
        recompute_blocks: in training keep no activations inside blocks and compute them again for the backward.
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
        recompute_blocks: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.depth = depth
        self.use_mean_pooling = use_mean_pooling
        # What pictures must go through, and what the outputs mean: parts of the weights, see `load_pretrained`.
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
        # One index for all blocks, never stored: it follows from the grid.
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
            )
            for rate in rates
        )
        self.norm = nn.Identity() if use_mean_pooling else nn.LayerNorm(embed_dim, epsilon=LN_EPSILON)
        self.fc_norm = nn.LayerNorm(embed_dim, epsilon=LN_EPSILON) if use_mean_pooling else None
        self._init_encoder()
        # Built and filled last, so that `build_backbone` then `build_head` draw the same numbers.
        self.head = make_head(embed_dim, num_classes, init_scale) if num_classes else nn.Identity()

    def _init_encoder(self) -> None:
        """Initial values of recipes for fine-tuning: unilm/beit/modeling_finetune.py, `_init_weights`, `fix_init_weight`."""
        self.apply(init_weights)
        init_convolution(self.patch_embed.proj)
        truncated_normal(self.cls_token)
        if self.pos_embed is not None:
            truncated_normal(self.pos_embed)
        for number, block in enumerate(self.blocks, start=1):
            rescale_block(block, number)

    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        """Logits `[B, K]` of normalised images `[B, 3, height, width]`; features `[B, D]` without a head."""
        return self.head(self.forward_features(images))

    def forward_features(
        self,
        images: paddle.Tensor,
        return_layers: Sequence[int] | None = None,
        any_size: bool = False,
    ) -> paddle.Tensor | list[paddle.Tensor]:
        """Pooled features `[B, D]`, or the tokens `[B, N, D]` after each block of `return_layers` (from 0).

        Blocks after the last of `return_layers` do not run.

        With `any_size` the images may have any size in whole patches: positions are then resized by the rule of
        loading (`beit.checkpoint.resize`).

        Raises:
            ValueError: the image size is not the model's, or a layer does not exist.
        """
        change = change_grid(self.patch_embed, images) if any_size else None
        x = self.add_class_token(self.patch_embed(images, any_size), change)
        if return_layers is None:
            return self.pool(self.run_blocks(x, change=change)[-1])
        unknown = [layer for layer in return_layers if not 0 <= layer < self.depth]
        if unknown:
            raise ValueError(
                f"return_layers {unknown} do not exist; the model has blocks 0 to {self.depth - 1}"
            )
        order = sorted(set(return_layers))
        needed = list(self.blocks)[: order[-1] + 1]
        states = self.run_blocks(x, keep=frozenset(order), blocks=needed, change=change)
        return [states[order.index(layer)] for layer in return_layers]

    def extract_feat(self, images: paddle.Tensor) -> paddle.Tensor:
        """Pooled features `[B, D]` of normalised images, as mmpretrain calls it; of pictures see `beit.extract_feat`."""
        return self.forward_features(images)

    def forward_outputs(
        self,
        images: paddle.Tensor,
        return_layers: Sequence[int] = (),
        return_attentions: Sequence[int] = (),
        any_size: bool = False,
    ) -> BeitOutput:
        """Tokens, pooled features, and the tokens after and attention weights in the blocks asked for (from 0).

        transformers' `hidden_states[i + 1]` is block i here; its first entry is `embed(images)`.

        Raises:
            ValueError: the image size is not the model's (without `any_size`), or a block does not exist.
        """
        unknown = [layer for layer in (*return_layers, *return_attentions) if not 0 <= layer < self.depth]
        if unknown:
            raise ValueError(f"blocks {unknown} do not exist; the model has blocks 0 to {self.depth - 1}")
        change = change_grid(self.patch_embed, images) if any_size else None
        x = self.add_class_token(self.patch_embed(images, any_size), change)
        weights: dict[int, paddle.Tensor | None] = dict.fromkeys(return_attentions)
        states = self.run_blocks(x, keep=frozenset(return_layers), change=change, attentions=weights)
        order = sorted(set(return_layers))
        return BeitOutput(
            last_hidden_state=self.norm(states[-1]),
            pooler_output=self.pool(states[-1]),
            hidden_states=tuple(states[order.index(layer)] for layer in return_layers),
            attentions=tuple(weights[layer] for layer in return_attentions),
        )

    def embed(self, images: paddle.Tensor) -> paddle.Tensor:
        """Tokens `[B, N, D]` before the first block."""
        return self.add_class_token(self.patch_embed(images))

    def add_class_token(self, x: paddle.Tensor, change: GridChange | None = None) -> paddle.Tensor:
        """Tokens `[B, N, D]` before the first block of patch embeddings `[B, L, D]`; absolute positions are added."""
        cls_token = self.cls_token.expand([x.shape[0], -1, -1]).astype(x.dtype)
        x = paddle.concat([cls_token, x], axis=1)  # [B, N, D]
        if self.pos_embed is not None:
            x = x + (self.pos_embed if change is None else change.positions(self.pos_embed))
        return self.pos_drop(x)

    def run_blocks(
        self,
        x: paddle.Tensor,
        keep: frozenset[int] = frozenset(),
        blocks: Iterable[Block] | None = None,
        change: GridChange | None = None,
        attentions: dict[int, paddle.Tensor | None] | None = None,
    ) -> list[paddle.Tensor]:
        """Tokens after each block of `keep` and after the last one, each `[B, N, D]`.

        `blocks` (a part of the model's own, or others on the same grid) run in place of all, with the same shared table.
        `change` says that the tokens come from another grid than the model's. The blocks that are keys of `attentions`
        leave their attention weights `[B, H, N, N]` there.
        """
        shared_bias = None
        if self.rel_pos_bias is not None:
            index = self.relative_position_index
            shared_bias = self.rel_pos_bias(index) if change is None else change.bias(self.rel_pos_bias)
        blocks = list(self.blocks if blocks is None else blocks)
        # Drawn here, before parts of the batch go ways of their own and blocks are computed again.
        paths = [draw_paths(block.drop_path_rate, x.shape[0], block.training) for block in blocks]
        run, states = partial(self._run, keep=keep, change=change), None
        if attentions is None and is_divided(x, blocks):
            return run_divided(x, Run(partial(run, is_part=True), shared_bias, paths, blocks))
        if attentions is None and change is None:
            run = partial(run, shared_bias=shared_bias, paths=paths, blocks=blocks)
            states = run_by_tokens(run, x, blocks)
        return states or self._run(x, shared_bias, paths, blocks, keep, change, attentions)

    def _run(
        self,
        x: paddle.Tensor,
        shared_bias: paddle.Tensor | None,
        paths: Sequence[paddle.Tensor | None],
        blocks: Sequence[Block],
        keep: frozenset[int],
        change: GridChange | None,
        attentions: dict[int, paddle.Tensor | None] | None = None,
        is_part: bool = False,
        rows: slice | None = None,
    ) -> list[paddle.Tensor]:
        """Blocks on x: all tokens, or those of `rows`, whose threads exchange what attention needs."""
        index = self.relative_position_index if change is None else None
        if rows is not None:
            index = None if index is None else index[rows]
            shared_bias = None if shared_bias is None else shared_bias[:, :, rows]
        # Paddle's way without PyLayer registers what all threads share, as is the generator that either restores.
        how = {"use_reentrant": is_part, "preserve_rng_state": not is_part}
        states = []
        for number, block in enumerate(blocks):
            bias = shared_bias if change is None else change.bias(block.attn, shared_bias)
            if attentions is not None and number in attentions:
                x, attentions[number] = block(x, bias, index, return_weights=True, paths=paths[number])
            elif self.recompute_blocks and self.training:
                x = recompute(block, x, bias, index, False, paths[number], **how)
            else:
                x = block(x, bias, index, paths=paths[number])
            if number in keep:
                states.append(x)
        return [*states, x]

    def pool(self, x: paddle.Tensor) -> paddle.Tensor:
        """Features `[B, D]` of the last tokens `[B, N, D]`."""
        x = self.norm(x)
        if self.fc_norm is None:
            return x[:, 0]
        return self.fc_norm(x[:, 1:].mean(1))

    def layer_id(self, name: str) -> int:
        """Layer of a parameter for layer-wise rate decay: 0 embedding, i + 1 block i, depth + 1 the rest.

        Source: unilm/beit/optim_factory.py, `get_num_layer_for_vit`.
        """
        if name in ("cls_token", "mask_token", "pos_embed") or name.startswith("patch_embed."):
            return 0
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        return self.depth + 1

    def freeze_layers(self, count: int) -> None:
        """Stop training the parameters of the first `count` layers (1: the embedding, k + 1: the first k blocks too)."""
        for name, parameter in self.named_parameters():
            if self.layer_id(name) < count:
                parameter.stop_gradient = True

    def set_state_dict(
        self, state_dict: Mapping[str, Any], use_structured_name: bool = True
    ) -> tuple[list[str], list[str]]:
        """Take the weights of a PaddleViT-form state dict, flat or as a training checkpoint; (missing, unexpected) keys.

        Of a training checkpoint the moving average is taken where there is one, as PaddleViT evaluates. Stored
        position indices are left alone: they follow from the grid. For other publishers' files, other sizes and a
        strict check use `beit.load_pretrained`.
        """
        for wrapper in ("model_ema", "model", "state_dict"):
            if isinstance(state_dict.get(wrapper), Mapping):
                state_dict = state_dict[wrapper]
                break
        weights = {
            key: value for key, value in state_dict.items() if not key.endswith("relative_position_index")
        }
        return super().set_state_dict(weights, use_structured_name)

    set_dict = set_state_dict
    load_dict = set_state_dict


def build_beit(config: CfgNode) -> Beit:
    """The classifier of a config (`MODEL.*`, `DATA.IMAGE_SIZE`, `TRAIN.RECOMPUTE`)."""
    return _build(config, config.MODEL.NUM_CLASSES)


def build_backbone(config: CfgNode) -> Beit:
    """The encoder of a config without head: images to pooled features `[B, D]` (PASSL's layout)."""
    return _build(config, 0)


def build_head(config: CfgNode) -> nn.Linear:
    """The head of a config alone: features `[B, D]` to logits; `build_head(c)(build_backbone(c)(x))` is `build_beit(c)(x)`.

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
    """Arguments of `Beit` that describe the encoder of a config, without pooling and head."""
    model = config.MODEL
    return {
        "image_size": image_hw(config),
        "patch_size": model.PATCH_SIZE,
        "embed_dim": model.EMBED_DIM,
        "depth": model.DEPTH,
        "num_heads": model.NUM_HEADS,
        "head_dim": model.ATTN_HEAD_SIZE,
        "mlp_ratio": model.MLP_RATIO,
        "qkv_bias": model.QKV_BIAS,
        "qk_scale": model.QK_SCALE,
        "drop_rate": model.DROPOUT,
        "attn_drop_rate": model.ATTENTION_DROPOUT,
        "drop_path_rate": model.DROPPATH,
        "init_values": model.INIT_VALUES,
        "use_abs_pos_emb": model.USE_ABS_POS_EMB,
        "use_rel_pos_bias": model.USE_REL_POS_BIAS,
        "use_shared_rel_pos_bias": model.USE_SHARED_REL_POS_BIAS,
        "recompute_blocks": config.TRAIN.RECOMPUTE,
    }
