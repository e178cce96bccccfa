"""VQ-KD: the tokenizer of BEiT v2, an encoder, a codebook, and a decoder that rebuilds a teacher's features."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional as F

from beit.beit import Beit
from beit.layers.init import init_weights
from beit.models.quantizer import NormEmaQuantizer

# B batch, h, w patch grid, N = h * w patches (row-major), D width, C channels of a code, T channels of the teacher


class VqKd(nn.Layer):
    """Encoder, quantizer and decoder under the published names.

    Source: arXiv 2208.06366, section 2.2; unilm/beit2/modeling_vqkd.py, `VQKD`.

    Args:
        encoder: BEiT with absolute positions, without LayerScale and head, whose `fc_norm` acts on every patch token.
        quantizer: the codebook.
        decoder: the same over the map of codes (patch size 1); None for encoding alone.
        code_dim: C.
        teacher_dim: T.
    """

    def __init__(
        self,
        encoder: Beit,
        quantizer: NormEmaQuantizer,
        decoder: Beit | None = None,
        *,
        code_dim: int,
        teacher_dim: int,
    ) -> None:
        super().__init__()
        width = encoder.embed_dim
        self.depth = encoder.depth
        self.grid_size = encoder.patch_embed.grid_size
        self.teacher_dim = teacher_dim
        self.encoder = encoder
        self.encode_task_layer = _task_layer(width, code_dim)
        self.quantize = quantizer
        self.decoder = decoder
        self.decode_task_layer = _task_layer(width, teacher_dim) if decoder is not None else None

    def forward(
        self, images: paddle.Tensor, targets: paddle.Tensor, rng: Any = None
    ) -> dict[str, paddle.Tensor]:
        """Scalars `loss` = `cosine_loss` + `commitment_loss`; and `ids` int64 `[B, N]`.

        In training the codebook takes a step.

        Args:
            images: `[B, 3, height, width]` in [0, 1].
            targets: features of the teacher `[B, N, T]`.
            rng: NumPy generator for the start of the codebook and re-seeding.
        Raises:
            ValueError: no decoder, or features of another grid or width than the decoder's.
        """
        if self.decoder is None:
            raise ValueError("this VQ-KD was built for encoding alone; build it with its decoder to train it")
        if list(targets.shape[1:]) != [self.grid_size[0] * self.grid_size[1], self.teacher_dim]:
            raise ValueError(
                f"the teacher gives {list(targets.shape[1:])} features an image, the tokenizer has a grid of "
                f"{self.grid_size[0]}x{self.grid_size[1]} and TOKENIZER.TEACHER_DIM = {self.teacher_dim}; "
                "image size / patch size of both must agree"
            )
        quantized = self.quantize(self._features(images), rng)
        cosine_loss = cosine_distance(self._decode(quantized["codes"]), targets)
        return {
            "loss": cosine_loss + quantized["loss"],
            "cosine_loss": cosine_loss,
            "commitment_loss": quantized["loss"],
            "ids": quantized["ids"],
        }

    @paddle.no_grad()
    def encode(self, images: paddle.Tensor) -> paddle.Tensor:
        """Token ids int64 `[B, N]`, row-major, of images `[B, 3, height, width]` in [0, 1].

        The range is a contract: nothing is guessed from the values of a batch.
        Deviation: the official `pre_process` multiplies a batch by 255 when its largest value is at most 1.

        Raises:
            ValueError: integer images, the wrong size, or a codebook that was never initialized.
        """
        self.quantize.require_initialized()
        features = self._features(images)
        with paddle.amp.auto_cast(enable=False):
            return self.quantize.nearest(F.normalize(features, axis=-1))

    def layer_id(self, name: str) -> int:
        """Layer of a parameter for layer-wise rate decay: the encoder's, and depth + 1 for all that follows it."""
        inner = name.removeprefix("encoder.")
        return self.encoder.layer_id(inner) if inner != name else self.depth + 1

    def freeze_layers(self, count: int) -> None:
        """Stop training the first `count` layers of the encoder."""
        self.encoder.freeze_layers(count)

    def _features(self, images: paddle.Tensor) -> paddle.Tensor:
        """Float32 `[B, N, C]` before normalization."""
        if not images.is_floating_point():
            raise ValueError(
                f"VQ-KD takes images in [0, 1] of a floating type, got {images.dtype}; divide by 255"
            )
        tokens = patch_tokens(self.encoder, 2.0 * images - 1.0)  # [B, N, D]
        return _float32(self.encode_task_layer, tokens)

    def _decode(self, codes: paddle.Tensor) -> paddle.Tensor:
        """Features `[B, N, T]` of codes `[B, N, C]`."""
        assert self.decoder is not None and self.decode_task_layer is not None  # `forward` has refused
        maps = codes.transpose([0, 2, 1]).reshape([0, 0, *self.grid_size])  # [B, C, h, w]
        return _float32(self.decode_task_layer, patch_tokens(self.decoder, maps))


def patch_tokens(encoder: Beit, images: paddle.Tensor) -> paddle.Tensor:
    """Patch tokens `[B, N, D]` after the last block, each through `fc_norm`; the class token is left out."""
    assert encoder.fc_norm is not None  # both halves of a VQ-KD pool by the mean
    return encoder.fc_norm(encoder.run_blocks(encoder.embed(images)).last[:, 1:])


def cosine_distance(rebuilt: paddle.Tensor, targets: paddle.Tensor) -> paddle.Tensor:
    """Mean over all patches of 1 - cosine. Source: arXiv 2208.06366, equation 2."""
    with paddle.amp.auto_cast(enable=False):
        return (1.0 - F.cosine_similarity(rebuilt, targets.astype(rebuilt.dtype), axis=-1)).mean()


def _task_layer(width: int, out: int) -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, out))
    layers.apply(init_weights)
    return layers


def _float32(layers: nn.Sequential, tokens: paddle.Tensor) -> paddle.Tensor:
    """Without autocast: the directions of the code vectors decide the tokens (official code does the same)."""
    with paddle.amp.auto_cast(enable=False):
        return layers(tokens.astype(layers[0].weight.dtype))
