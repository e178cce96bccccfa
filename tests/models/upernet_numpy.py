"""UPerNet on BEiT in plain NumPy, float64, with unilm's names and PyTorch's layouts; independent of the package."""

from __future__ import annotations

import math
import re

import numpy as np

from tests.reference_numpy import encode, gelu


def conv(x, weight, bias=None):
    """Convolution with "same" padding for odd kernels: one product per kernel position."""
    k = weight.shape[-1]
    height, width = x.shape[2:]
    padded = np.pad(x, [(0, 0), (0, 0), (k // 2,) * 2, (k // 2,) * 2])
    out = 0
    for dy in range(k):
        for dx in range(k):
            view = padded[:, :, dy : dy + height, dx : dx + width]
            out = out + np.einsum("bihw,oi->bohw", view, weight[:, :, dy, dx])
    return out if bias is None else out + bias[None, :, None, None]


def double(x, weight, bias):
    """Transposed convolution, kernel = stride = 2; weight [in, out, 2, 2]."""
    batch, _, height, width = x.shape
    out = np.zeros((batch, weight.shape[1], 2 * height, 2 * width))
    for dy in range(2):
        for dx in range(2):
            out[:, :, dy::2, dx::2] = np.einsum("bihw,io->bohw", x, weight[:, :, dy, dx])
    return out + bias[None, :, None, None]


def batch_norm(x, s, name, training):
    mean, var = s[f"{name}.running_mean"], s[f"{name}.running_var"]
    if training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    scale = s[f"{name}.weight"] / np.sqrt(var + 1e-5)
    return (x - mean[:, None, None]) * scale[:, None, None] + s[f"{name}.bias"][:, None, None]


def module(x, s, name, training):
    return np.maximum(batch_norm(conv(x, s[f"{name}.conv.weight"]), s, f"{name}.bn", training), 0)


def average_pool(x, side):
    """Means over the (overlapping) cells floor(i n / side) .. ceil((i + 1) n / side)."""
    height, width = x.shape[2:]
    out = np.empty((*x.shape[:2], side, side))
    for i in range(side):
        for j in range(side):
            rows = slice(i * height // side, -(-(i + 1) * height // side))
            columns = slice(j * width // side, -(-(j + 1) * width // side))
            out[:, :, i, j] = x[:, :, rows, columns].mean((2, 3))
    return out


def bilinear(x, size):
    for axis, length in ((2, size[0]), (3, size[1])):
        n = x.shape[axis]
        matrix = np.zeros((length, n))
        for i in range(length):
            place = min(max((i + 0.5) * n / length - 0.5, 0), n - 1)
            low = math.floor(place)
            matrix[i, low] += 1 - (place - low)
            matrix[i, min(low + 1, n - 1)] += place - low
        x = np.moveaxis(np.moveaxis(x, axis, -1) @ matrix.T, -1, axis)
    return x


def block_outputs(s, images, heads, layers):
    """Maps [B, D, h, w] after each of the blocks `layers` (from 0), computed by encoders that end there."""
    maps = []
    for layer in layers:
        blocks = {k: v for k, v in s.items() if not _is_later(k, layer)}
        tokens = encode(blocks, images, heads)[:, 1:]
        side = round(math.sqrt(tokens.shape[1]))
        maps.append(tokens.transpose(0, 2, 1).reshape(len(tokens), -1, side, side))
    return maps


def _is_later(name, layer):
    match = re.match(r"blocks\.(\d+)\.", name)
    return match is not None and int(match[1]) > layer


def upernet(state, images, heads, layers, *, training=False):
    """Logits and auxiliary logits of a unilm segmentation state; dropout off, BatchNorm on batch statistics in training."""
    s = {name: np.asarray(array, np.float64) for name, array in state.items()}
    encoder = {k.removeprefix("backbone."): v for k, v in s.items() if k.startswith("backbone.")}
    a, b, c, d = block_outputs(encoder, images, heads, layers)
    up = "backbone.fpn1"
    a = gelu(batch_norm(double(a, s[f"{up}.0.weight"], s[f"{up}.0.bias"]), s, f"{up}.1", training))
    a = double(a, s[f"{up}.3.weight"], s[f"{up}.3.bias"])
    b = double(b, s["backbone.fpn2.0.weight"], s["backbone.fpn2.0.bias"])
    h, w = (side // 2 * 2 for side in d.shape[2:])
    d = np.maximum.reduce([d[:, :, i:h:2, j:w:2] for i in range(2) for j in range(2)])

    head = "decode_head."
    context = [d]
    for k, side in enumerate((1, 2, 3, 6)):
        pooled = module(average_pool(d, side), s, f"{head}psp_modules.{k}.1", training)
        context.append(bilinear(pooled, d.shape[2:]))
    top = module(np.concatenate(context, 1), s, f"{head}bottleneck", training)
    maps = [module(x, s, f"{head}lateral_convs.{i}", training) for i, x in enumerate((a, b, c))] + [top]
    for i in (2, 1, 0):
        maps[i] = maps[i] + bilinear(maps[i + 1], maps[i].shape[2:])
    outs = [module(x, s, f"{head}fpn_convs.{i}", training) for i, x in enumerate(maps[:3])] + [top]
    fused = np.concatenate([bilinear(x, maps[0].shape[2:]) for x in outs], 1)
    fused = module(fused, s, f"{head}fpn_bottleneck", training)
    logits = conv(fused, s[f"{head}conv_seg.weight"], s[f"{head}conv_seg.bias"])
    auxiliary = module(c, s, "auxiliary_head.convs.0", training)
    return logits, conv(auxiliary, s["auxiliary_head.conv_seg.weight"], s["auxiliary_head.conv_seg.bias"])
