"""DALL-E's dVAE in plain NumPy, float64, with OpenAI's parameter names; and the names of other publishers."""

from __future__ import annotations

import re

import numpy as np


def conv(s, name, x):
    """Cross-correlation with zero padding, one shifted sum per kernel position."""
    weight, bias = s[f"{name}.w"].astype(np.float64), s[f"{name}.b"].astype(np.float64)
    k, (height, width) = weight.shape[-1], x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (k // 2,) * 2, (k // 2,) * 2))
    out = bias[:, None, None]
    for dy in range(k):
        for dx in range(k):
            part = padded[:, :, dy : dy + height, dx : dx + width]
            out = out + np.einsum("bchw,oc->bohw", part, weight[:, :, dy, dx])
    return out


def block(s, name, x, num_blocks):
    y = x
    for c in (1, 2, 3, 4):
        y = conv(s, f"{name}.res_path.conv_{c}", np.maximum(y, 0))
    shortcut = conv(s, f"{name}.id_path", x) if f"{name}.id_path.w" in s else x
    return shortcut + y / num_blocks**2


def groups(s, x, between):
    """Four groups of two blocks, `between` between the groups, then ReLU and the last convolution."""
    for g in (1, 2, 3, 4):
        for b in (1, 2):
            x = block(s, f"blocks.group_{g}.block_{b}", x, 8)
        x = between(x) if g < 4 else x
    return conv(s, "blocks.output.conv", np.maximum(x, 0))


def encode(s, images):
    """Logits [B, K, h, w] of pixels after `map_pixels`."""

    def pool(x):
        b, c, h, w = x.shape
        return x.reshape(b, c, h // 2, 2, w // 2, 2).max((3, 5))

    return groups(s, conv(s, "blocks.input", images.astype(np.float64)), pool)


def decode(s, ids):
    """Images [B, 3, H, W] in [0, 1] of ids [B, h, w]."""
    one_hot = np.eye(s["blocks.input.w"].shape[1])[ids].transpose(0, 3, 1, 2)
    out = groups(s, conv(s, "blocks.input", one_hot), lambda x: x.repeat(2, axis=2).repeat(2, axis=3))
    pixels = 1.0 / (1.0 + np.exp(-out[:, :3]))
    return np.clip((pixels - 0.1) / 0.8, 0, 1)


def spelled(state, form):
    """The same state with the names of another publisher."""
    out = {}
    for name, array in state.items():
        if form != "openai":
            name = re.sub(r"\.w$", ".weight", re.sub(r"\.b$", ".bias", name))
        if form == "huggingface":
            name = re.sub(r"(group_\d)\.", r"\1.group.", name).replace("res_path.", "res_path.path.")
        out[name] = array
    return out
