"""The BEiT classifier in plain NumPy, float64, on unilm's names and Torch's (out, in) weights.

Written from the papers and the official definition of the network only; shares no code with the package.
Images must have the size the tables were made for (a square grid).
"""

from __future__ import annotations

import math

import numpy as np

EPSILON = 1e-6
_erf = np.vectorize(math.erf, otypes=[np.float64])


def layer_norm(x, weight, bias):
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + EPSILON) * weight + bias


def gelu(x):
    return 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def position_bias(table, height, width):
    """[H, N, N] of a grid, entry by entry: row of the query, column of the key, the class token first."""
    n = height * width + 1
    bias = np.empty((table.shape[1], n, n))
    for a in range(n):
        for b in range(n):
            if a == 0 and b == 0:
                row = table[-1]
            elif a == 0:
                row = table[-3]
            elif b == 0:
                row = table[-2]
            else:
                (ya, xa), (yb, xb) = divmod(a - 1, width), divmod(b - 1, width)
                row = table[(ya - yb + height - 1) * (2 * width - 1) + (xa - xb + width - 1)]
            bias[:, a, b] = row
    return bias


def patch_tokens(images, weight, bias):
    """A stride-P convolution as one dot product per patch, row-major patches: [B, L, D]."""
    p = weight.shape[-1]
    rows, columns = images.shape[2] // p, images.shape[3] // p
    patches = [
        images[:, :, y * p : (y + 1) * p, x * p : (x + 1) * p] for y in range(rows) for x in range(columns)
    ]
    flat = np.stack([patch.reshape(len(images), -1) for patch in patches], axis=1)
    return flat @ weight.reshape(len(weight), -1).T + bias


def attention(x, s, prefix, num_heads, bias):
    batch, n, width = x.shape
    inner = s[prefix + "qkv.weight"].shape[0] // 3
    projected = x @ s[prefix + "qkv.weight"].T
    q, k, v = (projected[..., i * inner : (i + 1) * inner] for i in range(3))
    if prefix + "q_bias" in s:
        q, v = q + s[prefix + "q_bias"], v + s[prefix + "v_bias"]
    size = inner // num_heads
    out = np.empty((batch, n, inner))
    for h in range(num_heads):
        part = slice(h * size, (h + 1) * size)
        scores = q[..., part] @ k[..., part].transpose(0, 2, 1) * size**-0.5
        out[..., part] = softmax(scores + (0 if bias is None else bias[h])) @ v[..., part]
    return out @ s[prefix + "proj.weight"].T + s[prefix + "proj.bias"]


def encode(s, images, num_heads):
    """Tokens [B, N, D] after the last block."""
    s = {name: np.asarray(array, np.float64) for name, array in s.items()}
    x = patch_tokens(np.asarray(images, np.float64), s["patch_embed.proj.weight"], s["patch_embed.proj.bias"])
    patch = s["patch_embed.proj.weight"].shape[-1]
    height, width = images.shape[2] // patch, images.shape[3] // patch
    x = np.concatenate([np.broadcast_to(s["cls_token"], (len(x), 1, x.shape[2])), x], axis=1)
    if "pos_embed" in s:
        x = x + s["pos_embed"]
    shared = s.get("rel_pos_bias.relative_position_bias_table")
    i = 0
    while f"blocks.{i}.norm1.weight" in s:
        b = f"blocks.{i}."
        table = s.get(b + "attn.relative_position_bias_table", shared)
        bias = None if table is None else position_bias(table, height, width)
        normed = layer_norm(x, s[b + "norm1.weight"], s[b + "norm1.bias"])
        x = x + s.get(b + "gamma_1", 1.0) * attention(normed, s, b + "attn.", num_heads, bias)
        hidden = layer_norm(x, s[b + "norm2.weight"], s[b + "norm2.bias"])
        hidden = gelu(hidden @ s[b + "mlp.fc1.weight"].T + s[b + "mlp.fc1.bias"])
        x = x + s.get(b + "gamma_2", 1.0) * (hidden @ s[b + "mlp.fc2.weight"].T + s[b + "mlp.fc2.bias"])
        i += 1
    return x


def classify(s, images, num_heads):
    """Logits [B, K]: mean of the patches with fc_norm, or the class token with norm, whichever the state has."""
    x = encode(s, images, num_heads)
    if "fc_norm.weight" in s:
        x = layer_norm(x[:, 1:].mean(1), s["fc_norm.weight"], s["fc_norm.bias"])
    else:
        x = layer_norm(x, s["norm.weight"], s["norm.bias"])[:, 0]
    return x @ np.asarray(s["head.weight"], np.float64).T + s["head.bias"]


def transform(x, s, prefix, num_heads, bias):
    """One block."""
    normed = layer_norm(x, s[prefix + "norm1.weight"], s[prefix + "norm1.bias"])
    x = x + s.get(prefix + "gamma_1", 1.0) * attention(normed, s, prefix + "attn.", num_heads, bias)
    hidden = layer_norm(x, s[prefix + "norm2.weight"], s[prefix + "norm2.bias"])
    hidden = gelu(hidden @ s[prefix + "mlp.fc1.weight"].T + s[prefix + "mlp.fc1.bias"])
    hidden = hidden @ s[prefix + "mlp.fc2.weight"].T + s[prefix + "mlp.fc2.bias"]
    return x + s.get(prefix + "gamma_2", 1.0) * hidden


def predict_tokens(s, images, mask, num_heads, early=0):
    """Masked image modeling: logits [M, K] of the masked patches, of each branch: [main] or [main, cls_pt]."""
    s = {name: np.asarray(array, np.float64) for name, array in s.items()}
    x = patch_tokens(np.asarray(images, np.float64), s["patch_embed.proj.weight"], s["patch_embed.proj.bias"])
    side = round(math.sqrt(x.shape[1]))
    x = np.where(mask[..., None], s["mask_token"], x)
    x = np.concatenate([np.broadcast_to(s["cls_token"], (len(x), 1, x.shape[2])), x], axis=1)
    if "pos_embed" in s:
        x = x + s["pos_embed"]
    table = s.get("rel_pos_bias.relative_position_bias_table")
    bias = None if table is None else position_bias(table, side, side)
    i, branches = 0, []
    while f"blocks.{i}.norm1.weight" in s:
        x = transform(x, s, f"blocks.{i}.", num_heads, bias)
        i += 1
        if i == early:
            early_patches = x[:, 1:]
    branches.append((x, "norm.", "lm_head."))
    if early:
        x, own = np.concatenate([x[:, :1], early_patches], axis=1), "cls_pt_lm_head.weight" in s
        j = 0
        while f"cls_pt_layers.{j}.norm1.weight" in s:
            x = transform(x, s, f"cls_pt_layers.{j}.", num_heads, bias)
            j += 1
        branches.append((x, "cls_pt_norm." if own else "norm.", "cls_pt_lm_head." if own else "lm_head."))
    logits = []
    for x, norm, head in branches:
        normed = layer_norm(x, s[norm + "weight"], s[norm + "bias"])[:, 1:]
        logits.append((normed @ s[head + "weight"].T + s[head + "bias"])[mask])
    return logits


def torch_layout(state):
    """Linear weights (out, in), as the functions of this module take them."""
    linear = ("qkv.weight", "attn.proj.weight", "fc1.weight", "fc2.weight", "lm_head.weight")
    return {name: value.T if name.endswith(linear) else value for name, value in state.items()}
