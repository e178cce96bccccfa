"""Whether the device computes what the CPU computes in float64: forward pass, gradients, fused attention."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import paddle

from beit.beit import Beit
from beit.doctor.findings import Finding
from beit.layers import fused_attention

_TOLERANCE = {"float32": 2e-3, "bfloat16": 0.1, "float16": 0.1}
"""Largest difference allowed, relative to the largest value. TF32 matrix products of a GPU have 10 bits."""
_SIDE, _PATCH, _WIDTH, _HEADS = 64, 16, 128, 2


def attention(device: str) -> Iterator[Finding]:
    """Whether attention runs in the fused kernel, and why not.

    Args:
        device: "gpu" or "cpu".
    """
    if device == "cpu":
        yield Finding("attention", "kernel", "plain: the fused kernel is for GPUs")
        return
    for dtype in _TOLERANCE:
        value = fused_attention.describe(dtype, _WIDTH // _HEADS).removeprefix("attention: ")
        is_plain = value.startswith("plain")
        advice = "training works, but is slower and needs more memory" if is_plain else ""
        yield Finding("attention", dtype, value, "note" if is_plain else "ok", advice)


def numbers(device: str) -> Iterator[Finding]:
    """Logits and gradients of a small model in each precision, against the same in float64 on the CPU.

    Args:
        device: "gpu" or "cpu"; a CPU trains in float32 alone.
    """
    expected = _logits_and_gradients("cpu", "float64")
    for dtype in _TOLERANCE if device == "gpu" else ("float32",):
        found = _logits_and_gradients(device, dtype)
        errors = {
            name: float(np.abs(found[name] - value).max() / np.abs(value).max())
            for name, value in expected.items()
        }
        logits = errors.pop("logits")
        worst = max(errors, key=lambda name: errors[name])
        is_right = max(logits, errors[worst]) <= _TOLERANCE[dtype]
        value = f"logits differ by {logits:.1e}, gradients by {errors[worst]:.1e} at most ({worst})"
        advice = (
            ""
            if is_right
            else f"expected {_TOLERANCE[dtype]:g} at most: do not train in {dtype} on this device"
        )
        yield Finding("numbers", f"{device}, {dtype}", value, "ok" if is_right else "problem", advice)


def _logits_and_gradients(device: str, dtype: str) -> dict[str, np.ndarray]:
    """Logits and gradients by parameter, in float64, of a model whose weights are waves."""
    before, is_half = paddle.get_device(), dtype in ("bfloat16", "float16")
    stored = "float32" if is_half else dtype  # autocast keeps the weights
    paddle.set_device(device)
    paddle.set_default_dtype(stored)
    try:
        model = Beit(
            image_size=(_SIDE, _SIDE), patch_size=_PATCH, embed_dim=_WIDTH, depth=2, num_heads=_HEADS, num_classes=10
        )  # fmt: skip
        for parameter in model.parameters():
            values = 0.5 * parameter.shape[0] ** -0.5 * _wave(parameter.shape) + (len(parameter.shape) == 1)
            parameter.set_value(values.astype(stored))
        model.train()
        images = _wave([2, 3, _SIDE, _SIDE]).astype(stored)
        with paddle.amp.auto_cast(enable=is_half, dtype=dtype if is_half else "float16"):
            logits = model(paddle.to_tensor(images))
        (logits.astype("float64") * paddle.to_tensor(_wave(logits.shape))).sum().backward()
        found = {
            name: parameter.grad.astype("float64").numpy() for name, parameter in model.named_parameters()
        }
        return {"logits": logits.astype("float64").numpy(), **found}
    finally:
        paddle.set_default_dtype("float32")
        paddle.set_device(before)


def _wave(shape: list[int]) -> np.ndarray:
    """Numbers in [-1, 1] that are the same on every machine and do not repeat."""
    positions = np.arange(int(np.prod(shape)), dtype=np.float64)
    return np.sin(positions * (positions % 97) / 7.0 + positions / 3.0).reshape(shape)
