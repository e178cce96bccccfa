"""Images to patch tokens."""

from __future__ import annotations

import paddle
from paddle import nn

# B batch, L patches = h * w (row-major), D width, P patch side in pixels


class PatchEmbed(nn.Layer):
    """Cut images into P x P patches and project each to D channels with one convolution.

    Args:
        image_size: (height, width) in pixels, multiples of `patch_size`.
        patch_size: P.
        in_channels: channels of the input.
        embed_dim: D.
    """

    def __init__(
        self, image_size: tuple[int, int], *, patch_size: int = 16, in_channels: int = 3, embed_dim: int = 768
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.patch_size = patch_size
        self.grid_size = (image_size[0] // patch_size, image_size[1] // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.proj = nn.Conv2D(in_channels, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: paddle.Tensor, any_size: bool = False) -> paddle.Tensor:
        """Patch tokens `[B, L, D]` of images `[B, C, height, width]`.

        Args:
            images: of the model's size; with `any_size` of any size that is a multiple of the patch size.

        Raises:
            ValueError: the images have another size.
        """
        height, width = images.shape[-2:]
        # -1 is the unknown size of a graph being traced.
        known = -1 not in (height, width)
        if any_size and known and (height % self.patch_size or width % self.patch_size):
            raise ValueError(
                f"images of {height}x{width} pixels cannot be cut into patches of {self.patch_size}: pad them"
            )
        if not any_size and known and (height, width) != self.image_size:
            raise ValueError(
                f"the model takes images of {self.image_size[0]}x{self.image_size[1]} pixels, got {height}x{width}; "
                f"resize them or build the model with DATA.IMAGE_SIZE = ({height}, {width})"
            )
        return self.proj(images).flatten(2).transpose([0, 2, 1])  # [B, L, D]
