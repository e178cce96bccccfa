"""CLIP's and DINO's vision transformers in plain NumPy, float64, with the names of their files and random weights."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from tests.checkpoint import publishers

_erf = np.vectorize(math.erf, otypes=[np.float64])


def norm(s, name, x, eps):
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt(x.var(-1, keepdims=True) + eps) * s[f"{name}.weight"] + s[f"{name}.bias"]


def patches(x, weight):
    """[B, N, D] of images [B, 3, H, W], row-major."""
    d, c, p, _ = weight.shape
    b, _, h, w = x.shape
    cut = x.reshape(b, c, h // p, p, w // p, p).transpose(0, 2, 4, 1, 3, 5).reshape(b, -1, c * p * p)
    return cut @ weight.reshape(d, -1).T


def attention(x, weight, bias, heads):
    """Attention with biases of q, k and v; weight [3D, D]."""
    b, n, d = x.shape
    q, k, v = (x @ weight.T + bias).reshape(b, n, 3, heads, d // heads).transpose(2, 0, 3, 1, 4)
    scores = np.exp(q @ k.transpose(0, 1, 3, 2) / math.sqrt(d // heads))
    return (scores / scores.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(b, n, d)


def clip(state, images, heads):
    """[B, N, T]: ln_post of the patch tokens times the projection."""
    s = {name.removeprefix("visual."): array.astype(np.float64) for name, array in state.items()}
    mean = np.array([0.48145466, 0.4578275, 0.40821073]).reshape(1, 3, 1, 1)
    std = np.array([0.26862954, 0.26130258, 0.27577711]).reshape(1, 3, 1, 1)
    x = patches((images - mean) / std, s["conv1.weight"])
    cls = np.broadcast_to(s["class_embedding"], (len(x), 1, x.shape[-1]))
    x = norm(s, "ln_pre", np.concatenate([cls, x], 1) + s["positional_embedding"], 1e-5)
    i = 0
    while f"transformer.resblocks.{i}.ln_1.weight" in s:
        b = f"transformer.resblocks.{i}."
        y = attention(
            norm(s, b + "ln_1", x, 1e-5), s[b + "attn.in_proj_weight"], s[b + "attn.in_proj_bias"], heads
        )
        x = x + y @ s[b + "attn.out_proj.weight"].T + s[b + "attn.out_proj.bias"]
        y = norm(s, b + "ln_2", x, 1e-5) @ s[b + "mlp.c_fc.weight"].T + s[b + "mlp.c_fc.bias"]
        y = y / (1 + np.exp(-1.702 * y))
        x = x + y @ s[b + "mlp.c_proj.weight"].T + s[b + "mlp.c_proj.bias"]
        i += 1
    return norm(s, "ln_post", x, 1e-5)[:, 1:] @ s["proj"]


def dino(state, images, heads):
    """[B, N, D]: the final norm of the patch tokens."""
    s = {name: array.astype(np.float64) for name, array in state.items()}
    mean = np.array([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
    std = np.array([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    x = patches((images - mean) / std, s["patch_embed.proj.weight"]) + s["patch_embed.proj.bias"]
    x = np.concatenate([np.broadcast_to(s["cls_token"], (len(x), 1, x.shape[-1])), x], 1) + s["pos_embed"]
    i = 0
    while f"blocks.{i}.norm1.weight" in s:
        b = f"blocks.{i}."
        y = attention(norm(s, b + "norm1", x, 1e-6), s[b + "attn.qkv.weight"], s[b + "attn.qkv.bias"], heads)
        x = x + y @ s[b + "attn.proj.weight"].T + s[b + "attn.proj.bias"]
        y = norm(s, b + "norm2", x, 1e-6) @ s[b + "mlp.fc1.weight"].T + s[b + "mlp.fc1.bias"]
        y = 0.5 * y * (1 + _erf(y / math.sqrt(2)))
        x = x + y @ s[b + "mlp.fc2.weight"].T + s[b + "mlp.fc2.bias"]
        i += 1
    return norm(s, "norm", x, 1e-6)[:, 1:]


def clip_state(rng, *, width=16, depth=2, patch=4, side=3, out=6):
    """A random state with OpenAI's names of the vision transformer."""
    draw = partial(publishers.draw, rng, scale=0.3)
    s = {"class_embedding": draw(width), "positional_embedding": draw(side * side + 1, width)}
    s |= {"proj": draw(width, out), "conv1.weight": draw(width, 3, patch, patch)}
    s |= {
        f"{n}.{p}": draw(width) + (p == "weight") for n in ("ln_pre", "ln_post") for p in ("weight", "bias")
    }
    for i in range(depth):
        b = f"transformer.resblocks.{i}."
        s |= {
            b + f"{n}.{p}": draw(width) + (p == "weight")
            for n in ("ln_1", "ln_2")
            for p in ("weight", "bias")
        }
        s |= {b + "attn.in_proj_weight": draw(3 * width, width), b + "attn.in_proj_bias": draw(3 * width)}
        s |= {b + "attn.out_proj.weight": draw(width, width), b + "attn.out_proj.bias": draw(width)}
        s |= {b + "mlp.c_fc.weight": draw(4 * width, width), b + "mlp.c_fc.bias": draw(4 * width)}
        s |= {b + "mlp.c_proj.weight": draw(width, 4 * width), b + "mlp.c_proj.bias": draw(width)}
    return {f"visual.{name}": array for name, array in s.items()}


def dino_state(rng, *, width=16, depth=2, patch=4, side=3):
    """A random state with the names of facebookresearch/dino."""
    draw = partial(publishers.draw, rng, scale=0.3)
    s = {"cls_token": draw(1, 1, width), "pos_embed": draw(1, side * side + 1, width)}
    s |= {"patch_embed.proj.weight": draw(width, 3, patch, patch), "patch_embed.proj.bias": draw(width)}
    s |= {"norm.weight": draw(width) + 1, "norm.bias": draw(width)}
    for i in range(depth):
        b = f"blocks.{i}."
        s |= {
            b + f"{n}.{p}": draw(width) + (p == "weight")
            for n in ("norm1", "norm2")
            for p in ("weight", "bias")
        }
        for name, o, n in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            s |= {b + f"{name}.weight": draw(o * width, n * width), b + f"{name}.bias": draw(o * width)}
    return s


def clip_transformers(state):
    """`clip_state` with the names of transformers' CLIPModel."""
    out = {
        "logit_scale": np.ones((), np.float32),
        "text_model.final_layer_norm.weight": np.ones(4, np.float32),
    }
    out["vision_model.embeddings.position_ids"] = np.arange(10)[None]
    words = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    outside = {
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "conv1.weight": "embeddings.patch_embedding.weight",
    }
    for name, array in state.items():
        name = name.removeprefix("visual.")
        if name == "proj":
            out["visual_projection.weight"] = array.T
        elif name in outside:
            out[f"vision_model.{outside[name]}"] = array
        elif name.startswith("transformer."):
            _, _, i, rest = name.split(".", 3)
            prefix = f"vision_model.encoder.layers.{i}."
            if "in_proj" in rest:
                last = rest.rpartition("_")[2]
                for part, piece in zip("qkv", np.split(array, 3), strict=True):
                    out[f"{prefix}self_attn.{part}_proj.{last}"] = piece
            else:
                stem, _, last = rest.rpartition(".")
                out[f"{prefix}{words[stem]}.{last}"] = array
        else:
            out[
                "vision_model." + name.replace("ln_pre", "pre_layrnorm").replace("ln_post", "post_layernorm")
            ] = array
    return out


def dino_transformers(state):
    """`dino_state` with the names of transformers' ViTModel."""
    words = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    outside = {"cls_token": "cls_token", "pos_embed": "position_embeddings"}
    out = {"pooler.dense.weight": np.ones((2, 2), np.float32)}
    for name, array in state.items():
        if name in outside:
            out[f"embeddings.{outside[name]}"] = array
        elif name.startswith("patch_embed."):
            out[name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")] = array
        elif name.startswith("blocks."):
            _, i, rest = name.split(".", 2)
            stem, _, last = rest.rpartition(".")
            if stem == "attn.qkv":
                for part, piece in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                    out[f"encoder.layer.{i}.attention.attention.{part}.{last}"] = piece
            else:
                out[f"encoder.layer.{i}.{words[stem]}.{last}"] = array
        else:
            out[f"layer{name}"] = array
    return out
