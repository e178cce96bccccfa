"""The discrete VAE of DALL-E, the tokenizer of BEiT v1, with its decoder from tokens to images."""

from __future__ import annotations

import math

import paddle
from paddle import nn
from paddle.nn import functional as F

from beit.layers.loadable import Loadable

# B batch, h, w token grid, L = h * w tokens (row-major), K vocabulary

BLOCKS_PER_GROUP = 2
_MARGIN = 0.1  # of the logit-Laplace distribution, whose pixels are in [0.1, 0.9]: dall_e/utils.py


def map_pixels(images: paddle.Tensor) -> paddle.Tensor:
    """Map pixels from [0, 1] to [0.1, 0.9], the range of the encoder's input. Source: dall_e/utils.py."""
    return (1.0 - 2.0 * _MARGIN) * images + _MARGIN


def unmap_pixels(images: paddle.Tensor) -> paddle.Tensor:
    """The inverse of `map_pixels`; values outside of [0, 1] are clipped."""
    return ((images - _MARGIN) / (1.0 - 2.0 * _MARGIN)).clip(0.0, 1.0)


class Conv(nn.Layer):
    """Convolution with "same" zero padding; its tensors have the published names `w` `[out, in, k, k]` and `b`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        deviation = 1.0 / math.sqrt(in_channels * kernel_size**2)  # dall_e/utils.py, `Conv2d`
        self.w = self.create_parameter(
            [out_channels, in_channels, kernel_size, kernel_size],
            default_initializer=nn.initializer.Normal(0.0, deviation),
        )
        self.b = self.create_parameter([out_channels], is_bias=True)
        self.padding = (kernel_size - 1) // 2

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """`[B, in, h, w]` to `[B, out, h, w]`."""
        return F.conv2d(x, self.w, self.b, padding=self.padding)


class DalleBlock(nn.Layer):
    """Residual block `id_path(x) + gain * res_path(x)`; `res_path` has four convolutions with a ReLU before each.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; between the convolutions there are a quarter of them.
        kernel_sizes: of the four convolutions: 3, 3, 3, 1 in the encoder, 1, 3, 3, 3 in the decoder.
        gain: factor of the residual path, 1 / (number of blocks)^2.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_sizes: tuple[int, int, int, int], gain: float
    ) -> None:
        super().__init__()
        self.gain = gain
        inner = out_channels // 4
        widths = [in_channels, inner, inner, inner, out_channels]
        self.id_path = Conv(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        path: list[tuple[str, nn.Layer]] = []
        for number, kernel_size in enumerate(kernel_sizes, start=1):
            conv = Conv(widths[number - 1], widths[number], kernel_size)
            path += [(f"relu_{number}", nn.ReLU()), (f"conv_{number}", conv)]
        self.res_path = nn.Sequential(*path)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """`[B, in, h, w]` to `[B, out, h, w]`."""
        return self.id_path(x) + self.gain * self.res_path(x)


class DalleEncoder(Loadable):
    """Logits over the vocabulary from images; a token covers `2 ** (groups - 1)` pixels per side.

    Source: dall_e/encoder.py of openai/DALL-E; the published model has 256 channels, 4 groups and 8192 tokens.
    Deviation: all in float32; the original computes most convolutions in float16 on GPUs, which can change the argmax
    of nearly equal logits.

    Args:
        width: channels of the first group; each further group has twice as many as the one before.
        groups: number of groups of two blocks; max pooling with stride 2 between groups.
        num_codes: K.
    """

    def __init__(self, *, width: int = 256, groups: int = 4, num_codes: int = 8192) -> None:
        super().__init__()
        self.stride = 2 ** (groups - 1)
        gain = 1.0 / (groups * BLOCKS_PER_GROUP) ** 2
        parts: list[tuple[str, nn.Layer]] = [("input", Conv(3, width, 7))]
        before = width
        for group in range(1, groups + 1):
            out = width * 2 ** (group - 1)
            layers = _group(before, out, (3, 3, 3, 1), gain)
            if group < groups:
                layers.append(("pool", nn.MaxPool2D(2)))
            parts.append((f"group_{group}", nn.Sequential(*layers)))
            before = out
        parts.append(("output", nn.Sequential(("relu", nn.ReLU()), ("conv", Conv(before, num_codes, 1)))))
        self.blocks = nn.Sequential(*parts)

    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        """Logits `[B, K, h, w]` of images `[B, 3, height, width]` after `map_pixels`.

        Raises:
            ValueError: height or width is not a multiple of the stride.
        """
        height, width = images.shape[-2:]
        if -1 not in (height, width) and (height % self.stride or width % self.stride):
            raise ValueError(
                f"a DALL-E token covers {self.stride}x{self.stride} pixels, got images of {height}x{width}; "
                f"resize them to multiples of {self.stride}"
            )
        return self.blocks(images)


class DalleDecoder(Loadable):
    """Images from token ids.

    Source: dall_e/decoder.py of openai/DALL-E.

    Args:
        width: channels of the last group; each earlier group has twice as many as the one after it.
        groups: number of groups of two blocks; nearest-neighbor upsampling by 2 between groups.
        code_width: channels of a token's embedding.
        num_codes: K.
    """

    def __init__(
        self, *, width: int = 256, groups: int = 4, code_width: int = 128, num_codes: int = 8192
    ) -> None:
        super().__init__()
        gain = 1.0 / (groups * BLOCKS_PER_GROUP) ** 2
        parts: list[tuple[str, nn.Layer]] = [("input", Conv(num_codes, code_width, 1))]
        before = code_width
        for group in range(1, groups + 1):
            out = width * 2 ** (groups - group)
            layers = _group(before, out, (1, 3, 3, 3), gain)
            if group < groups:
                layers.append(("upsample", nn.Upsample(scale_factor=2, mode="nearest")))
            parts.append((f"group_{group}", nn.Sequential(*layers)))
            before = out
        parts.append(("output", nn.Sequential(("relu", nn.ReLU()), ("conv", Conv(before, 6, 1)))))
        self.blocks = nn.Sequential(*parts)

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        """Images `[B, 3, height, width]` in [0, 1] of token ids `[B, h, w]`."""
        embed, *rest = self.blocks.children()
        # A lookup, equal to a 1x1 convolution of one-hot maps.
        x = F.embedding(ids, embed.w.flatten(1).transpose([1, 0])) + embed.b  # [B, h, w, C]
        x = x.transpose([0, 3, 1, 2])
        for layer in rest:
            x = layer(x)
        # The other three channels are the scales of the logit-Laplace distribution.
        return unmap_pixels(F.sigmoid(x[:, :3]))


def _group(
    before: int, out: int, kernel_sizes: tuple[int, int, int, int], gain: float
) -> list[tuple[str, nn.Layer]]:
    return [
        (f"block_{number}", DalleBlock(before if number == 1 else out, out, kernel_sizes, gain))
        for number in range(1, BLOCKS_PER_GROUP + 1)
    ]


class DalleTokenizer(Loadable):
    """Token ids from images in [0, 1], and images from token ids if there is a decoder.

    Args:
        encoder: the encoder with its weights.
        decoder: the decoder with its weights; None if `decode` is not needed.
    """

    def __init__(self, encoder: DalleEncoder, decoder: DalleDecoder | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    @paddle.no_grad()
    def encode(self, images: paddle.Tensor) -> paddle.Tensor:
        """Token ids int64 `[B, L]`, row-major, of images `[B, 3, height, width]` in [0, 1].

        `map_pixels` is applied here. 14 x 14 tokens, one per patch of a 224-pixel image, need an input of 112 pixels.

        Raises:
            ValueError: height or width is not a multiple of the stride.
        """
        return self.code_scores(images).argmax(1).flatten(1)

    def code_scores(self, images: paddle.Tensor) -> paddle.Tensor:
        """Logits of the codes `[B, K, h, w]`, of which `encode` takes the largest; images and errors as there."""
        with paddle.amp.auto_cast(enable=False):
            return self.encoder(map_pixels(images.astype(self.encoder.blocks[0].b.dtype)))

    @paddle.no_grad()
    def decode(self, ids: paddle.Tensor, grid_size: tuple[int, int] | None = None) -> paddle.Tensor:
        """Images `[B, 3, height, width]` in [0, 1] of token ids `[B, L]`.

        Args:
            ids: int64, row-major.
            grid_size: (h, w) of the tokens; None for a square grid.

        Raises:
            ValueError: there is no decoder, or L is not h * w.
        """
        if self.decoder is None:
            raise ValueError("this tokenizer has no decoder: set TOKENIZER.PRETRAINED_DECODER to its weights")
        side = math.isqrt(ids.shape[1])
        height, width = grid_size or (side, side)
        if height * width != ids.shape[1]:
            raise ValueError(
                f"{ids.shape[1]} tokens do not fill a grid of {height}x{width}; give grid_size=(h, w)"
            )
        with paddle.amp.auto_cast(enable=False):
            return self.decoder(ids.reshape([-1, height, width]))
