"""VQ-KD, the tokenizer of BEiT v2: an encoder, a codebook, and a decoder that predicts a teacher's features."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from beit.beit import Beit
from beit.layers.init import init_weights
from beit.layers.loadable import Loadable
from beit.models.quantizer import NormEmaQuantizer

# B batch, h, w patch grid, N = h * w patches (row-major), D width, C channels of a code, T channels of the teacher


class VqKd(Loadable):
    """Encoder, quantizer and decoder; attribute names are those of the published files.

    Source: arXiv 2208.06366, section 2.2; unilm/beit2/modeling_vqkd.py, `VQKD`.

    Args:
        encoder: BEiT with absolute positions, without LayerScale and head. Its `fc_norm` is applied to each patch
            token.
        quantizer: the codebook.
        decoder: the same kind of model on the map of codes (patch size 1, C channels); None if only `encode` is needed.
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
        self, images: paddle.Tensor, targets: paddle.Tensor, rng: np.random.Generator | None = None
    ) -> dict[str, paddle.Tensor]:
        """The scalars `loss` = `cosine_loss` + `commitment_loss`, and `ids`, int64 `[B, N]`.

        In training mode the codebook is updated.

        Args:
            images: `[B, 3, height, width]` in [0, 1].
            targets: features of the teacher, `[B, N, T]`.
            rng: random generator for the initial codebook and for reseeding; needed in training.

        Raises:
            ValueError: there is no decoder, or the targets have another grid or width than the decoder's output.
        """
        if self.decoder is None:
            raise ValueError("this VQ-KD was built without its decoder; training needs it")
        if list(targets.shape[1:]) != [self.grid_size[0] * self.grid_size[1], self.teacher_dim]:
            raise ValueError(
                f"the teacher outputs {list(targets.shape[1:])} features per image, the tokenizer has a grid of "
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

        Deviation: the range is never derived from the values; the official `pre_process` multiplies a batch by 255 if
        its largest value is at most 1.

        Raises:
            ValueError: the images are integers or of the wrong size, or the codebook was never initialized.
        """
        self.quantize.require_initialized()
        return self._similarities(images).argmax(-1)

    def code_scores(self, images: paddle.Tensor) -> paddle.Tensor:
        """Scores of the codes `[B, K, h, w]`, of which `encode` takes the largest; images as there.

        They mean nothing if the codebook was never initialized; `encode` checks it.
        """
        return self._similarities(images).transpose([0, 2, 1]).reshape([0, 0, *self.grid_size])

    def layer_id(self, name: str) -> int:
        """Layer of a parameter for layer-wise rate decay: that in the encoder, and depth + 1 outside of it."""
        inner = name.removeprefix("encoder.")
        return self.encoder.layer_id(inner) if inner != name else self.depth + 1

    def freeze_layers(self, count: int) -> None:
        """Freeze the first `count` layers of the encoder (1: the embedding, k + 1: also the first k blocks)."""
        self.encoder.freeze_layers(count)

    def _similarities(self, images: paddle.Tensor) -> paddle.Tensor:
        """Similarities `[B, N, K]` of the patches to the codes."""
        features = self._features(images)
        with paddle.amp.auto_cast(enable=False):
            return self.quantize.similarities(F.normalize(features, axis=-1))

    def _features(self, images: paddle.Tensor) -> paddle.Tensor:
        """Features `[B, N, C]` before normalization, float32."""
        if not images.is_floating_point():
            raise ValueError(
                f"VQ-KD takes images in [0, 1] of a floating type, got {images.dtype}; divide by 255"
            )
        tokens = patch_tokens(self.encoder, 2.0 * images - 1.0)  # [B, N, D]
        return _float32(self.encode_task_layer, tokens)

    def _decode(self, codes: paddle.Tensor) -> paddle.Tensor:
        """Predicted features `[B, N, T]` of codes `[B, N, C]`."""
        assert self.decoder is not None and self.decode_task_layer is not None  # checked in `forward`
        maps = codes.transpose([0, 2, 1]).reshape([0, 0, *self.grid_size])  # [B, C, h, w]
        return _float32(self.decode_task_layer, patch_tokens(self.decoder, maps))


def patch_tokens(encoder: Beit, images: paddle.Tensor) -> paddle.Tensor:
    """Patch tokens `[B, N, D]` after the last block and `fc_norm`, without the class token."""
    assert encoder.fc_norm is not None  # encoder and decoder of a VQ-KD are built with mean pooling
    return encoder.fc_norm(encoder.run_blocks(encoder.embed(images)).last[:, 1:])


def cosine_distance(rebuilt: paddle.Tensor, targets: paddle.Tensor) -> paddle.Tensor:
    """Mean of 1 - cosine over all patches. Source: arXiv 2208.06366, equation 2.

    Args:
        rebuilt: predicted features `[B, N, T]`.
        targets: features of the teacher `[B, N, T]`.
    """
    with paddle.amp.auto_cast(enable=False):
        return (1.0 - F.cosine_similarity(rebuilt, targets.astype(rebuilt.dtype), axis=-1)).mean()


def _task_layer(width: int, out: int) -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, out))
    layers.apply(init_weights)
    return layers


def _float32(layers: nn.Sequential, tokens: paddle.Tensor) -> paddle.Tensor:
    """Run layers without autocast, as the official code: rounding their output could change tokens."""
    with paddle.amp.auto_cast(enable=False):
        return layers(tokens.astype(layers[0].weight.dtype))
