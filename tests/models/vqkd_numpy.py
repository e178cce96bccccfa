"""A training step of VQ-KD in plain NumPy, float64: loss, gradients by central differences, AdamW, codebook.

Parameters have a leading axis of perturbations (of length 1, or 2 x entries for the parameter that is varied), so that
one forward computes the loss at all shifted values of a tensor. Names are the published ones, Linear weights (in, out).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erf

STEP = 1e-6  # of the central differences


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def affine(s, name, x):
    return x @ s[f"{name}.weight"][:, None] + s[f"{name}.bias"][:, None, None]


def norm(s, name, x):
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return scaled * s[f"{name}.weight"][:, None, None] + s[f"{name}.bias"][:, None, None]


def patches(images, size):
    """[..., L, C p p] of [..., C, H, W]."""
    *lead, c, h, w = images.shape
    cut = images.reshape(*lead, c, h // size, size, w // size, size)
    n = len(lead)
    order = [*range(n), n + 1, n + 3, n, n + 2, n + 4]
    return cut.transpose(order).reshape(*lead, -1, c * size * size)


def encode(s, prefix, images, heads):
    """Patch tokens [P, B, L, D] after fc_norm."""
    s = {name[len(prefix) :]: value for name, value in s.items() if name.startswith(prefix)}
    weight = s["patch_embed.proj.weight"]  # [P, D, C, p, p]
    flat = weight.reshape(*weight.shape[:2], -1).swapaxes(1, 2)
    x = patches(images, weight.shape[-1]) @ flat[:, None] + s["patch_embed.proj.bias"][:, None, None]
    cls = np.broadcast_to(s["cls_token"], (len(s["cls_token"]), x.shape[1], 1, x.shape[-1]))
    lead = max(len(x), len(cls))
    x = np.concatenate([np.broadcast_to(part, (lead, *part.shape[1:])) for part in (cls, x)], axis=2)
    x = x + s["pos_embed"]
    i = 0
    while f"blocks.{i}.norm1.weight" in s:
        b = f"blocks.{i}."
        y = norm(s, b + "norm1", x) @ s[b + "attn.qkv.weight"][:, None]  # [P, B, N, 3 D]
        q, k, v = np.split(y, 3, axis=-1)
        q, v = q + s[b + "attn.q_bias"][:, None, None], v + s[b + "attn.v_bias"][:, None, None]
        mixed = []
        for qh, kh, vh in zip(*(np.split(part, heads, axis=-1) for part in (q, k, v)), strict=True):
            scores = np.exp(qh @ kh.swapaxes(-1, -2) / math.sqrt(qh.shape[-1]))
            mixed.append(scores / scores.sum(-1, keepdims=True) @ vh)
        x = x + affine(s, b + "attn.proj", np.concatenate(mixed, axis=-1))
        y = affine(s, b + "mlp.fc1", norm(s, b + "norm2", x))
        x = x + affine(s, b + "mlp.fc2", 0.5 * y * (1 + erf(y / math.sqrt(2))))
        i += 1
    return norm(s, "fc_norm", x[:, :, 1:])


def task_layer(s, name, x):
    return affine(s, f"{name}.2", np.tanh(affine(s, f"{name}.0", x)))


def losses(s, codebook, images, targets, heads, commitment, fixed=None):
    """Losses [P] (total, cosine, commitment), and the vectors and codes of the unperturbed parameters.

    With `fixed` (the unperturbed vectors and codes) the quantizer is the straight-through estimator: the identity plus a
    constant.
    """
    z = unit(task_layer(s, "encode_task_layer", encode(s, "encoder.", 2 * images - 1, heads)))  # [P, B, L, C]
    if fixed is None:
        fixed = z, codebook[((z[..., None, :] - codebook) ** 2).sum(-1).argmin(-1)]
    through = z + (fixed[1] - fixed[0])
    side = math.isqrt(z.shape[2])
    maps = through.swapaxes(2, 3).reshape(*through.shape[:2], -1, side, side)
    rebuilt = task_layer(s, "decode_task_layer", encode(s, "decoder.", maps, heads))
    cosine = (1 - (unit(rebuilt) * unit(targets)).sum(-1)).mean((1, 2))
    distance = commitment * ((fixed[1] - z) ** 2).mean((1, 2, 3))
    return {"loss": cosine + distance, "cosine_loss": cosine, "commitment_loss": distance}, fixed


def gradients(parameters, codebook, images, targets, heads, commitment):
    """Losses, gradient of every parameter, and the vectors and codes of the step."""
    s = {name: value[None] for name, value in parameters.items()}
    values, fixed = losses(s, codebook, images[None], targets, heads, commitment)
    slopes = {}
    for name, value in parameters.items():
        shifts = STEP * np.eye(value.size).reshape(-1, *value.shape)
        varied = s | {name: value + np.concatenate([shifts, -shifts])}
        shifted, _ = losses(varied, codebook, images[None], targets, heads, commitment, fixed)
        up, down = np.split(shifted["loss"], 2)
        slopes[name] = ((up - down) / (2 * STEP)).reshape(value.shape)
    return {name: value[0] for name, value in values.items()}, slopes, fixed


class AdamW:
    """Decoupled weight decay, bias-corrected moments. Source: arXiv 1711.05101, algorithm 2."""

    def __init__(self, lr, betas, eps, decay):
        self.lr, self.betas, self.eps, self.decay, self.t = lr, betas, eps, decay, 0
        self.m, self.v = {}, {}

    def step(self, parameters, slopes):
        self.t += 1
        (b1, b2), new = self.betas, {}
        for name, p in parameters.items():
            g = slopes[name]
            m = self.m[name] = b1 * self.m.get(name, 0) + (1 - b1) * g
            v = self.v[name] = b2 * self.v.get(name, 0) + (1 - b2) * g**2
            exempt = p.ndim <= 1 or name.endswith((".bias", "cls_token", "pos_embed"))
            p = p * (1 - self.lr * (0 if exempt else self.decay))
            new[name] = p - self.lr * (m / (1 - b1**self.t)) / (np.sqrt(v / (1 - b2**self.t)) + self.eps)
        return new


def move_codebook(codebook, fixed, decay):
    """One update of the codebook."""
    z, codes = (part.reshape(-1, codebook.shape[1]) for part in fixed)
    new = codebook.copy()
    for k, code in enumerate(codebook):
        mine = z[(codes == code).all(1)]
        new[k] = unit(decay * code + (1 - decay) * (unit(mine.mean(0)) if len(mine) else code))
    return new
