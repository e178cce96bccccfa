"""Attention in one GPU kernel, used only after a check that it gives the same numbers and the gradient of the bias."""

from __future__ import annotations

import functools
from typing import NamedTuple

import paddle
from paddle.nn import functional as F

# B batch, N tokens (queries), M keys, H heads, d channels per head

KEY_ALIGNMENT = 8
"""The number of keys in a row of the bias is a multiple of this: the kernel loads 16 bytes of half precision at once."""

_MASKED = -3e4
"""Logit of a padding key: its weight underflows to 0, and float16 can represent the number."""

_TOLERANCE = {"float32": 0.01, "float16": 0.05, "bfloat16": 0.05}
"""Largest difference allowed, relative to the largest value; a kernel that drops a term is off by more than 0.1."""


class KernelCheck(NamedTuple):
    """Whether the fused kernel may be used, and the reason in words."""

    works: bool
    reason: str


def attention_weights(
    q: paddle.Tensor, k: paddle.Tensor, bias: paddle.Tensor | None, scale: float
) -> paddle.Tensor:
    """Softmax of `scale q k^T + bias` over the keys, `[B, H, N, M]`.

    Args:
        q, k: `[B, H, N, d]` and `[B, H, M, d]`.
        bias: added to the logits, `[1, H, N, M]`; None for none.
        scale: factor of q.
    """
    logits = paddle.matmul(q * scale, k, transpose_y=True)
    if bias is not None:
        # In float32 under autocast too, as PyTorch promotes it. Paddle's CPU kernel adds tensors of one shape several
        # times as fast as it broadcasts.
        logits = logits.astype(bias.dtype) + bias.expand_as(logits)
    return F.softmax(logits, axis=-1)


def fused_attention(
    q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, bias: paddle.Tensor | None, scale: float
) -> paddle.Tensor:
    """Mixed values `[B, N, H, d]` by Paddle's memory-efficient kernel, which keeps no `[N, N]` weights.

    Paddle's `scaled_dot_product_attention` would take FlashAttention instead, which drops the gradient of a mask.

    Args:
        q, k, v: `[B, N, H, d]`, of one type.
        bias: added to the logits, `[1, H, N, N]`; rounded to the type of q.
        scale: factor of q.
    """
    if bias is not None:
        k, v, bias = align_keys(k, v, bias)
        # The kernel writes one gradient per sample into a tensor of the bias's shape; a bias without batch axis
        # is refused by one version and overrun by another.
        bias = bias.astype(q.dtype).expand([q.shape[0], -1, -1, -1])
    return _kernel(q, k, v, bias, scale)


def align_keys(
    k: paddle.Tensor, v: paddle.Tensor, bias: paddle.Tensor
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """Keys and values `[B, M, H, d]` and bias `[1, H, N, M]` with M padded to a multiple of `KEY_ALIGNMENT`.

    The kernel uses the number of keys as the row stride of the bias, so a padded bias needs padded keys. Padding
    keys get weight 0.
    """
    missing = -k.shape[1] % KEY_ALIGNMENT
    if not missing:
        return k, v, bias
    nothing = paddle.zeros([k.shape[0], missing, *k.shape[2:]], k.dtype)
    masked = paddle.full([*bias.shape[:3], missing], _MASKED, bias.dtype)
    return (
        paddle.concat([k, nothing], axis=1),
        paddle.concat([v, nothing], axis=1),
        paddle.concat([bias, masked], axis=3),
    )


def can_fuse(x: paddle.Tensor, head_dim: int) -> bool:
    """Whether `fused_attention` computes what the plain path does, for heads of the type and device of x.

    While a graph is traced the plain path runs: the kernel cannot be checked there.
    """
    if not paddle.in_dynamic_mode() or not _is_on_gpu():
        return False
    return check_kernel(
        paddle.get_device(), str(x.dtype).rpartition(".")[2], head_dim, paddle.is_grad_enabled()
    ).works


def describe(dtype: str, head_dim: int) -> str:
    """One log line: whether attention is fused on this GPU in training and evaluation, and why."""
    paths = []
    for use, needs_gradient in (("training", True), ("evaluation", False)):
        found = check_kernel(paddle.get_device(), dtype, head_dim, needs_gradient)
        paths.append(f"{'fused' if found.works else 'plain'} in {use} ({found.reason})")
    return "attention: " + ", ".join(paths)


@functools.cache
def check_kernel(device: str, dtype: str, head_dim: int, needs_gradient: bool) -> KernelCheck:
    """Compare the fused kernel with the plain path on a few tokens of two samples, once per kind of input.

    The random number generators are restored: a resumed run makes the check at another step than the unbroken run.

    Args:
        device: part of the cache key; the check runs on the current device.
        dtype: float32, float16 or bfloat16.
        head_dim: d.
        needs_gradient: compare the gradient of the bias too.
    """
    if dtype not in _TOLERANCE:
        return KernelCheck(False, f"not made for {dtype}")
    random = paddle.get_rng_state()
    try:
        with paddle.amp.auto_cast(enable=False), paddle.set_grad_enabled(needs_gradient):
            return _compare(dtype, head_dim)
    # Paddle raises these when the kernel is missing in this build, on this device or for this type.
    except (ImportError, AttributeError, RuntimeError, ValueError, OSError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        return KernelCheck(False, f"Paddle's kernel does not run: {lines[0].strip()}")
    finally:
        paddle.set_rng_state(random)


def _compare(dtype: str, head_dim: int) -> KernelCheck:
    batch, tokens, heads, scale = 2, 13, 2, head_dim**-0.5
    wave = paddle.arange(4 * batch * tokens * heads * head_dim, dtype="float32")
    q, k, v, sensitivity = (
        paddle.sin(wave * wave / 7).astype(dtype).reshape([4, batch, tokens, heads, head_dim]).unbind(0)
    )
    wave = paddle.arange(heads * tokens * tokens, dtype="float32")
    table = (2 * paddle.cos(wave * wave / 5)).astype(dtype).astype("float32")
    results = []
    for is_fused in (True, False):
        bias = table.clone().detach().reshape([1, heads, tokens, tokens])
        bias.stop_gradient = False
        if is_fused:
            mixed = fused_attention(q, k, v, bias, scale).astype("float32")
        else:
            qt, kt, vt = (x.astype("float32").transpose([0, 2, 1, 3]) for x in (q, k, v))
            mixed = paddle.matmul(attention_weights(qt, kt, bias, scale), vt)
            mixed = mixed.transpose([0, 2, 1, 3])
        if not paddle.is_grad_enabled():
            results.append({"output": mixed})
            continue
        (gradient,) = paddle.grad((mixed * sensitivity.astype("float32")).sum(), [bias], allow_unused=True)
        if gradient is None:
            return KernelCheck(False, "Paddle's kernel gives no gradient of the position bias")
        results.append({"output": mixed, "gradient of the bias": gradient})
    fused, plain = results
    for name, expected in plain.items():
        error = float((fused[name] - expected).abs().max() / expected.abs().max())
        if not error <= _TOLERANCE[dtype]:  # also NaN
            return KernelCheck(False, f"the {name} of Paddle's kernel is off by {100 * error:.2g} %")
    return KernelCheck(True, f"Paddle's kernel agrees with the plain path in {dtype}")


def _kernel(
    q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, bias: paddle.Tensor | None, scale: float
) -> paddle.Tensor:
    from paddle.incubate.nn.memory_efficient_attention import memory_efficient_attention

    # `training` keeps what the backward pass needs.
    return memory_efficient_attention(
        q, k, v, attn_bias=bias, p=0.0, scale=scale, training=paddle.is_grad_enabled()
    )


def _is_on_gpu() -> bool:
    # The device and not the place of a tensor: while `paddle.jit.to_static` traces, tensors have no place.
    return paddle.get_device().startswith("gpu")
