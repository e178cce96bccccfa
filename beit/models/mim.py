"""Masked image modeling: BEiT (v1) and BEiT v2 with patch aggregation."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn
from yacs.config import CfgNode

from beit.beit import Beit, encoder_arguments
from beit.layers.init import STD, init_uniform, init_weights, rescale_block, truncated_normal
from beit.layers.layer_norm import LayerNorm

# B batch, L patches, N = L + 1 tokens (class token first), D width, K vocabulary, M masked patches of the whole batch


class MimLogits(NamedTuple):
    """Logits `[M, K]` of both branches of BEiT v2: `main`, the last block, and `cls_pt`, the patch aggregation."""

    main: paddle.Tensor
    cls_pt: paddle.Tensor


class BeitForMaskedImageModeling(Beit):
    """The encoder with a mask token and a head that predicts the visual token of each masked patch.

    With `early_layers` it is the pre-training model of BEiT v2: `head_layers` extra blocks take the class token of the
    last block and the patch tokens of an early block, and predict the same visual tokens from them. The class token
    then has to represent the whole image. Attribute names are those of the published files.
    Source: arXiv 2106.08254, section 2; 2208.06366, section 2.3; unilm/beit/modeling_pretrain.py and
    unilm/beit2/modeling_pretrain.py.

    Args:
        vocab_size: K, number of codes of the tokenizer.
        early_layers: number of blocks after which the branch takes the patch tokens (9 of 12, 21 of 24); 0 for BEiT v1.
        head_layers: number of extra blocks in the branch.
        shared_lm_head: True if the branch shares `norm` and `lm_head` with the main output; False if it has its own.
        depth: number of blocks of the encoder.
        drop_path_rate: largest drop path rate, in [0, 1). Rates rise linearly from 0 over the `depth` blocks of the
            encoder. Those of the branch are items `early_layers` to `early_layers + head_layers - 1` of such a line over
            `max(depth, early_layers + head_layers)` blocks.
        encoder: further keyword arguments of `Beit`.

    Raises:
        ValueError: `early_layers` is not in 0 .. depth, or the blocks of a v2 model have their own position tables.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 8192,
        early_layers: int = 0,
        head_layers: int = 2,
        shared_lm_head: bool = True,
        depth: int = 12,
        drop_path_rate: float = 0.0,
        **encoder: Any,
    ) -> None:
        if not 0 <= early_layers <= depth:
            raise ValueError(
                f"MODEL.EARLY_LAYERS = {early_layers}, expected 1 to MODEL.DEPTH = {depth}, or 0 for BEiT v1"
            )
        if early_layers and encoder.get("use_rel_pos_bias", True):
            raise ValueError(
                "patch aggregation (MODEL.EARLY_LAYERS) supports only one shared position table: set "
                "MODEL.USE_REL_POS_BIAS False and MODEL.USE_SHARED_REL_POS_BIAS True"
            )
        extra = head_layers if early_layers else 0
        # Without mean pooling the encoder's final `norm` applies to every token. The branch has the same kind of blocks
        # as the encoder, so they are built together and split afterwards.
        super().__init__(num_classes=0, use_mean_pooling=False, depth=depth + extra, **encoder)
        blocks = list(self.blocks)
        self.depth, self.blocks = depth, nn.LayerList(blocks[:depth])
        longer = max(depth, early_layers + extra)
        rates = [
            *np.linspace(0.0, drop_path_rate, depth),
            *np.linspace(0.0, drop_path_rate, longer)[early_layers : early_layers + extra],
        ]
        for block, rate in zip(blocks, rates, strict=True):
            block.drop_path.rate = float(rate)
        self.vocab_size = vocab_size
        self.early_layers = early_layers
        self.mask_token = self.create_parameter([1, 1, self.embed_dim])
        self.lm_head = nn.Linear(self.embed_dim, vocab_size)
        self.cls_pt_layers = nn.LayerList(blocks[depth:]) if early_layers else None
        own_head = early_layers and not shared_lm_head
        self.cls_pt_norm = LayerNorm(self.embed_dim, epsilon=self.epsilon) if own_head else None
        self.cls_pt_lm_head = nn.Linear(self.embed_dim, vocab_size) if own_head else None
        self._init_pretraining()

    def _init_encoder(self) -> None:
        """Does nothing: `_init_pretraining` initializes all parts once they exist."""

    def _init_pretraining(self) -> None:
        """Initial values: normal, truncated at one deviation; in `cls_pt_layers` the default of PyTorch.

        The official code creates `cls_pt_layers` after it has initialized everything else, and only rescales them.
        Source: unilm/beit2/modeling_pretrain.py, `trunc_normal_`, `_init_weights`, `fix_init_cls_pt_weight`.
        """
        self.apply(lambda layer: init_weights(layer, bound=STD))
        truncated_normal(self.patch_embed.proj.weight, bound=STD)
        nn.initializer.Constant(0.0)(self.patch_embed.proj.bias)
        for token in (self.cls_token, self.mask_token, self.pos_embed):
            if token is not None:
                truncated_normal(token, bound=STD)
        for number, block in enumerate(self.blocks, start=1):
            rescale_block(block, number)
        for number, block in enumerate(self.cls_pt_layers or (), start=self.early_layers + 1):
            for linear in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
                init_uniform(linear)
            rescale_block(block, number)

    def forward(  # type: ignore[override]  # takes masks; `any_size` is of the classifier
        self,
        images: paddle.Tensor,
        mask: paddle.Tensor | None = None,
        masked_indices: paddle.Tensor | None = None,
    ) -> paddle.Tensor | MimLogits | tuple[paddle.Tensor, ...]:
        """Logits `[M, K]` of the masked patches, image by image and row-major in each; v2: of both branches.

        Args:
            images: normalized, `[B, 3, height, width]`.
            mask: bool `[B, L]`, True for masked patches; None for `extract_feat(images)`, as in mmpretrain.
            masked_indices: `numpy.flatnonzero(mask)`, int64 `[M]`, if the host has computed it; None computes it on the
                device, for which the host waits on a GPU.

        Raises:
            ValueError: the mask is not bool `[B, L]`, or the images have another size than the model.
        """
        if mask is None:
            return self.extract_feat(images)
        early, last = self._run_masked(images, mask)
        if masked_indices is None:
            masked_indices = find_masked_indices(mask)
        # Each image has a class token before its patches.
        rows = masked_indices + masked_indices // mask.shape[1] + 1
        main = self.lm_head(self.norm(last.flatten(0, 1).gather(rows)))
        if self.cls_pt_layers is None:
            return main
        joined = paddle.concat([last[:, :1], early[:, 1:]], axis=1)  # [B, N, D]
        branch = self.run_blocks(joined, self.cls_pt_layers).last
        norm = self.norm if self.cls_pt_norm is None else self.cls_pt_norm
        head = self.lm_head if self.cls_pt_lm_head is None else self.cls_pt_lm_head
        return MimLogits(main, head(norm(branch.flatten(0, 1).gather(rows))))

    def extract_feat(self, images: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        """Tokens `[B, N, D]` of whole images, as mmpretrain returns them: in BEiT after the final norm.

        In BEiT v2 two tensors, after block `early_layers` and after the last one, without norm.
        Source: mmpretrain/models/selfsup/beit.py, `BEiT.extract_feat`.
        """
        if not self.early_layers:
            return (self.norm(self.run_blocks(self.embed(images)).last),)
        blocks = [self.early_layers - 1, self.depth - 1]
        return self.forward_outputs(images, hidden_states=blocks, final=False).hidden_states

    def _run_masked(self, images: paddle.Tensor, mask: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Tokens `[B, N, D]` after block `early_layers` and after the last one."""
        x = self.add_class_token(mask_patches(self.patch_embed(images), mask, self.mask_token))
        if not self.early_layers:
            return x, self.run_blocks(x).last
        early = self.early_layers - 1
        outputs = self.run_blocks(x, hidden_states=[early])
        return outputs.hidden_states[early], outputs.last


def mask_patches(x: paddle.Tensor, mask: paddle.Tensor, mask_token: paddle.Tensor) -> paddle.Tensor:
    """Patch tokens `[B, L, D]` with `mask_token` `[1, 1, D]` in place of those that the mask, bool `[B, L]`, is True for.

    Raises:
        ValueError: the mask is not bool `[B, L]`.
    """
    if mask.dtype != paddle.bool or list(mask.shape) != list(x.shape[:2]):
        raise ValueError(
            f"the mask is {mask.dtype} {list(mask.shape)}; expected bool [batch, patches] = {list(x.shape[:2])}"
        )
    is_masked = mask.unsqueeze(-1).astype(x.dtype)
    # A product instead of `paddle.where`: as in the official code, and its gradient is a single reduction.
    return x * (1 - is_masked) + mask_token.astype(x.dtype) * is_masked


def find_masked_indices(mask: paddle.Tensor) -> paddle.Tensor:
    """Indices int64 `[M]` of the masked patches among all `B L` patches of a mask bool `[B, L]`."""
    return mask.flatten().nonzero().flatten()


def build_mim(config: CfgNode) -> BeitForMaskedImageModeling:
    """The pre-training model of a config, with random weights.

    Called with images `[B, 3, height, width]` and a bool mask `[B, L]` it returns the logits of the masked patches in
    row-major order: `[M, K]`, or with `MODEL.EARLY_LAYERS` `MimLogits(main, cls_pt)`.

    Args:
        config: read are `MODEL.*`, `TOKENIZER.NUM_CODES`, `DATA.IMAGE_SIZE` and `TRAIN.RECOMPUTE`.

    Examples:
        model = beit.build_mim(beit.get_config("beitv2_base_patch16_224_pt1k"))
        main, cls_pt = model(images, mask)

    Raises:
        ValueError: as `BeitForMaskedImageModeling`.
    """
    model = config.MODEL
    return BeitForMaskedImageModeling(
        vocab_size=config.TOKENIZER.NUM_CODES,
        early_layers=model.EARLY_LAYERS,
        head_layers=model.HEAD_LAYERS,
        shared_lm_head=model.SHARED_LM_HEAD,
        **encoder_arguments(config),
    )
