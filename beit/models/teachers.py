"""Frozen teachers of VQ-KD: vision transformers of CLIP, of DINO or of this package, with one feature per patch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import paddle
from paddle import nn
from paddle.nn import functional as F

from beit.checkpoint.canonical import State
from beit.checkpoint.open import open_checkpoint
from beit.containers.errors import CheckpointError
from beit.layers.attention import Attention
from beit.layers.block import Activation, Block
from beit.layers.patch_embed import PatchEmbed
from beit.metadata.architecture import Architecture
from beit.positions import resize_absolute_position
from beit.preprocessing import IMAGENET_MEAN, IMAGENET_STD, height_width
from beit.zoo import path_of

# B batch, N patches (row-major), D width, T channels of the features

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's preprocessing: unilm/beit2/modeling_vqkd.py, `ScalingLayerForClip`."""


def quick_gelu(x: paddle.Tensor) -> paddle.Tensor:
    """`x sigmoid(1.702 x)`, the activation of OpenAI's CLIP (clip/model.py, `QuickGELU`)."""
    return x * F.sigmoid(1.702 * x)


class Teacher(nn.Layer):
    """A plain vision transformer with absolute positions: one feature per patch of images in [0, 1]. It is frozen.

    The keys have no bias: it would add the same number to all attention logits of a query, which softmax cancels.

    Args:
        image_size: (height, width) in pixels.
        patch_size: side length of a patch in pixels.
        embed_dim: D.
        depth: number of blocks.
        num_heads: attention heads per block.
        mlp_dim: width of the hidden layer of the MLPs.
        mean: of the channels, on [0, 1].
        std: of the channels, on [0, 1].
        epsilon: epsilon of the layer norms.
        activation: activation of the MLPs.
        pre_norm: True if there is a norm before the first block (CLIP).
        out_dim: T, width of a linear projection after the last norm (CLIP); None for no projection, then T = D.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_dim: int,
        mean: Sequence[float],
        std: Sequence[float],
        epsilon: float,
        activation: Activation,
        pre_norm: bool,
        out_dim: int | None,
    ) -> None:
        super().__init__()
        self.dim = out_dim or embed_dim
        self.register_buffer("mean", paddle.to_tensor(mean).reshape([1, 3, 1, 1]), persistable=False)
        self.register_buffer("std", paddle.to_tensor(std).reshape([1, 3, 1, 1]), persistable=False)
        self.patch_embed = PatchEmbed(image_size, patch_size=patch_size, embed_dim=embed_dim)
        self.cls_token = self.create_parameter([1, 1, embed_dim])
        self.pos_embed = self.create_parameter([1, self.patch_embed.num_patches + 1, embed_dim])
        self.pre_norm = nn.LayerNorm(embed_dim, epsilon=epsilon) if pre_norm else nn.Identity()
        self.blocks = nn.LayerList(
            Block(
                Attention(embed_dim, num_heads=num_heads),
                dim=embed_dim,
                mlp_dim=mlp_dim,
                init_values=0.0,
                epsilon=epsilon,
                activation=activation,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, epsilon=epsilon)
        self.proj = nn.Linear(embed_dim, out_dim, bias_attr=False) if out_dim else nn.Identity()
        for parameter in self.parameters():
            parameter.stop_gradient = True
        self.eval()

    @paddle.no_grad()
    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        """Features `[B, N, T]` of images `[B, 3, height, width]` in [0, 1].

        Raises:
            ValueError: the images have another size than the teacher.
        """
        x = self.patch_embed((images - self.mean) / self.std)  # [B, N, D]
        x = paddle.concat([self.cls_token.expand([x.shape[0], -1, -1]).astype(x.dtype), x], axis=1)
        x = self.pre_norm(x + self.pos_embed)
        for block in self.blocks:
            x = block(x)
        return self.proj(self.norm(x[:, 1:]))


def load_teacher(
    kind: str,
    path: str | Path,
    *,
    key: str | None = None,
    image_size: tuple[int, int] | None = None,
    num_heads: int | None = None,
) -> Teacher:
    """The teacher in a published file; its sizes follow from the shapes of the tensors.

    Known files: CLIP of OpenAI (state dict with or without `visual.`) and of transformers (`CLIPModel`,
    `CLIPVisionModelWithProjection`); DINO of facebookresearch (backbone alone, or training checkpoint with the teacher),
    of timm and of transformers (`ViTModel`); a classifier of this package that has absolute positions only and was
    trained with ImageNet's mean and standard deviation.

    Args:
        kind: `"clip"`, `"dino"` or `"beit"` (a classifier); a file of another kind is refused.
        path: the file, or a folder of transformers.
        key: of the state dict in the file, as in `load_pretrained`.
        image_size: (height, width) of the teacher's images in pixels; positions are resized. None for the file's own.
        num_heads: heads per block; None for the number in the file beside the weights, or of the published teachers of this
            width.
    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file cannot be read, or does not hold such a teacher.
        ValueError: the file is incomplete.
    """
    state, found = _read_beit(path, key) if kind == "beit" else _read_vision_transformer(path, kind, key)
    if not (found.grid_size and found.image_size and found.mlp_width):
        raise ValueError(
            f"{path} is incomplete: no positions of a square grid, no patch embedding, or no blocks"
        )
    if not (num_heads or found.num_heads):
        raise ValueError(
            f"{path}: no file states the number of attention heads: set TOKENIZER.TEACHER_NUM_HEADS"
        )
    is_clip = kind == "clip"
    teacher = Teacher(
        image_size=image_size or height_width(found.image_size),
        patch_size=found.patch_size,
        embed_dim=found.width,
        depth=found.depth,
        num_heads=num_heads or found.num_heads,
        mlp_dim=found.mlp_width,
        mean=CLIP_MEAN if is_clip else IMAGENET_MEAN,
        std=CLIP_STD if is_clip else IMAGENET_STD,
        # clip/model.py has PyTorch's default; dino/vision_transformer.py sets its own.
        epsilon=1e-5 if is_clip else 1e-6,
        activation=quick_gelu if is_clip else F.gelu,
        pre_norm=is_clip,
        out_dim=state["proj.weight"].shape[1] if is_clip else None,
    )
    state["pos_embed"] = resize_absolute_position(
        state["pos_embed"], found.grid_size, teacher.patch_embed.grid_size
    )
    _fill(teacher, state, str(path))
    return teacher


def _read_vision_transformer(path: str | Path, kind: str, key: str | None) -> tuple[State, Architecture]:
    state, info = open_checkpoint(path_of(path), key=key, teacher=True)
    name = kind.upper()
    if info.kind != kind:
        raise CheckpointError(
            f"{path} is no {name} vision transformer (it holds a {info.kind.upper()} model); TOKENIZER.TEACHER and "
            "TOKENIZER.TEACHER_PRETRAINED must agree"
        )
    if info.unknown:
        raise CheckpointError(f"{path}: {info.unknown[0]} is not a tensor of a {name} vision transformer")
    return state, info.architecture


def _read_beit(path: str | Path, key: str | None) -> tuple[State, Architecture]:
    """A BEiT classifier of any publisher that is a plain vision transformer; `norm` then acts on each patch token."""
    state, info = open_checkpoint(path_of(path), key=key)
    found = info.architecture
    if not found.has_absolute_positions or found.has_relative_positions or found.has_layer_scale:
        raise CheckpointError(
            f"{info.name} is not a plain vision transformer: a teacher needs absolute positions "
            "(MODEL.USE_ABS_POS_EMB True) and neither relative ones nor LayerScale (MODEL.USE_REL_POS_BIAS False, "
            "MODEL.INIT_VALUES 0)"
        )
    kept = {name: array for name, array in state.items() if not name.startswith(("head.", "mask_token"))}
    return {name.replace("fc_norm.", "norm."): array for name, array in kept.items()}, found


def _fill(teacher: Teacher, state: State, name: str) -> None:
    own = teacher.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        raise ValueError(f"{name} is incomplete: missing {missing[:4]}, left over {unknown[:4]}")
    for key, tensor in own.items():
        tensor.set_value(state[key])
