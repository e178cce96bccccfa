"""Training speed to expect of a GPU, from counted operations and bytes; docs/scaling.md has the table.

A step is taken as matrix products and memory traffic one after the other, which is how eager kernels run.
"""

from __future__ import annotations

from dataclasses import dataclass

from yacs.config import CfgNode

from beit.config import image_hw


@dataclass(frozen=True)
class Gpu:
    """Peaks that the vendor states.

    Args:
        operations: floating-point operations a second in bfloat16 without sparsity.
        bandwidth: bytes a second to and from the device's memory.
    """

    operations: float
    bandwidth: float


GPUS = {"A100": Gpu(312e12, 2.04e12), "H100": Gpu(989e12, 3.35e12), "H200": Gpu(989e12, 4.8e12)}
"""Part of the name of a GPU -> its peaks: the SXM boards, of the A100 that with 80 GB."""

_PRODUCTS, _TRAFFIC = 0.7, 0.85
"""Shares of the peaks that large matrix products and elementwise kernels reach; assumed, not measured."""
_BFLOAT16 = 2
_ADAMW = 28
"""Bytes per parameter and step: weight and both moments are read and written, the gradient is read, in float32."""


def expected_rate(
    config: CfgNode,
    gpu: Gpu,
    *,
    forward: float,
    parameters: int,
    frozen: float = 0.0,
    batch: int | None = None,
) -> float:
    """Training images a second of one GPU in bfloat16 with fused attention, without waiting for data or other ranks.

    The traffic is that of the encoder's blocks; heads, patch embedding and frozen networks have less of it.

    Args:
        config: of the run.
        gpu: the device.
        forward: multiply-adds of one image in the trained network.
        parameters: that are trained.
        frozen: multiply-adds of one image in frozen networks (tokenizer, teacher).
        batch: images per step; None for DATA.BATCH_SIZE.
    """
    passes = 4 if config.TRAIN.RECOMPUTE else 3  # forward, and a backward pass of two
    products = 2 * (passes * forward + frozen) / (_PRODUCTS * gpu.operations)
    traffic = passes * block_traffic(config) * config.MODEL.DEPTH / (_TRAFFIC * gpu.bandwidth)
    update = _ADAMW * parameters / (_TRAFFIC * gpu.bandwidth)
    return 1.0 / (products + traffic + update / (batch or config.DATA.BATCH_SIZE))


def block_traffic(config: CfgNode) -> float:
    """Bytes that the forward pass of one block reads and writes for one image.

    Values of width D per token, read and written: two norms 4, qkv 4, its bias 6, transpose 6, scale of q 2, attention
    4, projection and bias 4, the MLP's input and output 2, its second bias 2, two LayerScales 4, two drop paths 4, two
    residuals 6. Of the MLP's hidden width: written by the first product, bias 2, GELU 2, read by the second product.
    """
    height, width = image_hw(config)
    tokens = height * width // config.MODEL.PATCH_SIZE**2 + 1
    values = 48 + 6 * config.MODEL.MLP_RATIO
    return float(_BFLOAT16 * values * tokens * config.MODEL.EMBED_DIM)


def find_gpu(name: str) -> Gpu | None:
    """The peaks of a GPU by the name that its driver gives, such as "NVIDIA H200"; None if they are not known."""
    return next((gpu for part, gpu in GPUS.items() if part in name), None)
