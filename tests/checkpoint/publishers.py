"""Files as the publishers write them, with random weights. Nothing here uses the package's tables.

The functions `unilm_*` draw a state with unilm's names and PyTorch's (out, in) layout; the other functions translate it
to the format of another publisher.
"""

from __future__ import annotations

import re

import numpy as np


def draw(rng, *shape, scale=0.1):
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def affine(rng, name, width):
    return {f"{name}.weight": 1 + draw(rng, width), f"{name}.bias": draw(rng, width)}


def linear(rng, name, out, into):
    return {f"{name}.weight": draw(rng, out, into, scale=into**-0.5), f"{name}.bias": draw(rng, out)}


def index_buffer(side):
    """The official construction of the buffer, by broadcasting coordinates."""
    coords = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij")).reshape(2, -1)
    relative = (coords[:, :, None] - coords[:, None, :]).transpose(1, 2, 0) + side - 1
    relative[..., 0] *= 2 * side - 1
    total = (2 * side - 1) ** 2 + 3
    index = np.zeros((side * side + 1,) * 2, np.int64)
    index[1:, 1:] = relative.sum(-1)
    index[0, 0:] = total - 3
    index[0:, 0] = total - 2
    index[0, 0] = total - 1
    return index


def block(rng, prefix, width, heads, hidden, *, rows=0, scale=True):
    s = {}
    if scale:
        s |= {prefix + "gamma_1": draw(rng, width) + 0.5, prefix + "gamma_2": draw(rng, width) + 0.5}
    s |= affine(rng, prefix + "norm1", width)
    s |= {prefix + "attn.q_bias": draw(rng, width), prefix + "attn.v_bias": draw(rng, width)}
    if rows:
        s[prefix + "attn.relative_position_bias_table"] = draw(rng, rows, heads, scale=0.5)
    s[prefix + "attn.qkv.weight"] = draw(rng, 3 * width, width, scale=width**-0.5)
    s |= linear(rng, prefix + "attn.proj", width, width) | affine(rng, prefix + "norm2", width)
    return s | linear(rng, prefix + "mlp.fc1", hidden, width) | linear(rng, prefix + "mlp.fc2", width, hidden)


def unilm_encoder(
    rng, *, width=24, depth=2, heads=3, side=3, patch=4, tables=True, positions=False, scale=True, channels=3
):
    s = {"cls_token": draw(rng, 1, 1, width)}
    if positions:
        s["pos_embed"] = draw(rng, 1, side * side + 1, width)
    s["patch_embed.proj.weight"] = draw(rng, width, channels, patch, patch)
    s["patch_embed.proj.bias"] = draw(rng, width)
    rows = (2 * side - 1) ** 2 + 3 if tables else 0
    for i in range(depth):
        s |= block(rng, f"blocks.{i}.", width, heads, 4 * width, rows=rows, scale=scale)
    return s


def unilm_classifier(rng, *, classes=5, pooling="mean", **sizes):
    s = unilm_encoder(rng, **sizes)
    width = s["cls_token"].shape[-1]
    return (
        s
        | affine(rng, "fc_norm" if pooling == "mean" else "norm", width)
        | linear(rng, "head", classes, width)
    )


def unilm_mim(rng, *, version=1, vocabulary=11, positions=False, width=24, heads=3, side=3, **sizes):
    s = unilm_encoder(
        rng,
        tables=False,
        positions=positions,
        scale=not positions,
        width=width,
        heads=heads,
        side=side,
        **sizes,
    )
    s["mask_token"] = draw(rng, 1, 1, width)
    if not positions:
        s["rel_pos_bias.relative_position_bias_table"] = draw(rng, (2 * side - 1) ** 2 + 3, heads)
    if version == 2:
        for j in range(2):
            s |= block(rng, f"cls_pt_layers.{j}.", width, heads, 4 * width)
    return s | affine(rng, "norm", width) | linear(rng, "lm_head", vocabulary, width)


def unilm_vqkd(rng, *, width=24, codes=7, dim=4, teacher=6, **sizes):
    common = {"tables": False, "positions": True, "scale": False, "width": width, "side": 3}
    parts = {"encoder": {"depth": 2, "patch": 4}, "decoder": {"depth": 1, "patch": 1, "channels": dim}}
    s = {}
    for name, own in parts.items():
        inner = unilm_encoder(rng, **common, **own) | affine(rng, "fc_norm", width)
        s |= {f"{name}.{key}": value for key, value in inner.items()}
    s |= linear(rng, "encode_task_layer.0", width, width) | linear(rng, "encode_task_layer.2", dim, width)
    s |= linear(rng, "decode_task_layer.0", width, width) | linear(rng, "decode_task_layer.2", teacher, width)
    s["quantize.cluster_size"] = np.abs(draw(rng, codes))
    s["quantize.embedding.weight"] = draw(rng, codes, dim)
    s["quantize.embedding.cluster_size"] = np.abs(draw(rng, codes))
    s["quantize.embedding.embed_avg"] = draw(rng, codes, dim)
    s["quantize.embedding.initted"] = np.ones(1, np.float32)
    return s


def conv_module(rng, name, out, into, kernel):
    s = {f"{name}.conv.weight": draw(rng, out, into, kernel, kernel)}
    return s | batch_norm(rng, f"{name}.bn", out)


def batch_norm(rng, name, width):
    running = {f"{name}.running_mean": draw(rng, width), f"{name}.running_var": 1 + np.abs(draw(rng, width))}
    return affine(rng, name, width) | running | {f"{name}.num_batches_tracked": np.array(7, np.int64)}


def conv(rng, name, out, into, kernel):
    return {f"{name}.weight": draw(rng, out, into, kernel, kernel), f"{name}.bias": draw(rng, out)}


def unilm_segmentation(rng, *, classes=4, width=24, auxiliary=6, depth=4, **sizes):
    s = {
        f"backbone.{name}": array
        for name, array in unilm_encoder(rng, width=width, depth=depth, **sizes).items()
    }
    s |= conv(rng, "backbone.fpn1.0", width, width, 2) | batch_norm(rng, "backbone.fpn1.1", width)
    s |= conv(rng, "backbone.fpn1.3", width, width, 2) | conv(rng, "backbone.fpn2.0", width, width, 2)
    s |= conv(rng, "decode_head.conv_seg", classes, width, 1)
    for k in range(4):
        s |= conv_module(rng, f"decode_head.psp_modules.{k}.1", width, width, 1)
    s |= conv_module(rng, "decode_head.bottleneck", width, 5 * width, 3)
    for k in range(3):
        s |= conv_module(rng, f"decode_head.lateral_convs.{k}", width, width, 1)
        s |= conv_module(rng, f"decode_head.fpn_convs.{k}", width, width, 3)
    s |= conv_module(rng, "decode_head.fpn_bottleneck", width, 4 * width, 3)
    s |= conv(rng, "auxiliary_head.conv_seg", classes, auxiliary, 1)
    return s | conv_module(rng, "auxiliary_head.convs.0", auxiliary, width, 3)


def dalle(rng, *, decoder=False, hidden=8, codes=16):
    """OpenAI's names. Encoder: 3x3 3x3 3x3 1x1 in each block; decoder: 1x1 3x3 3x3 3x3."""
    widths = (
        [8 * hidden, 4 * hidden, 2 * hidden, hidden]
        if decoder
        else [hidden, 2 * hidden, 4 * hidden, 8 * hidden]
    )
    before, last = (4, 6) if decoder else (hidden, codes)
    s = {
        "blocks.input.w": draw(rng, before, codes if decoder else 3, 1 if decoder else 7, 1 if decoder else 7)
    }
    s["blocks.input.b"] = draw(rng, before)
    for g, width in enumerate(widths, start=1):
        for b in (1, 2):
            name, sizes = f"blocks.group_{g}.block_{b}", [before, *[width // 4] * 3, width]
            if before != width:
                s |= {
                    f"{name}.id_path.w": draw(rng, width, before, 1, 1),
                    f"{name}.id_path.b": draw(rng, width),
                }
            for c in range(4):
                k = (1 if c == 0 else 3) if decoder else (1 if c == 3 else 3)
                s[f"{name}.res_path.conv_{c + 1}.w"] = draw(rng, sizes[c + 1], sizes[c], k, k)
                s[f"{name}.res_path.conv_{c + 1}.b"] = draw(rng, sizes[c + 1])
            before = width
    return s | {
        "blocks.output.conv.w": draw(rng, last, before, 1, 1),
        "blocks.output.conv.b": draw(rng, last),
    }


# ---- the formats of other publishers ----------------------------------------------------------------------------------------

_LINEARS = (
    *("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight", "lm_head.weight"),
    *("task_layer.0.weight", "task_layer.2.weight"),
)


def paddle_layout(unilm):
    """Linear weights as Paddle stores them, BatchNorm statistics under its names, without the counter."""
    out = {}
    for name, array in unilm.items():
        if name.endswith("num_batches_tracked"):
            continue
        name = name.replace(".running_mean", "._mean").replace(".running_var", "._variance")
        out[name] = array.T if name.endswith(_LINEARS) or name == "head.weight" else array
    return out


def with_index(state):
    out = dict(state)
    for name, table in state.items():
        if name.endswith("relative_position_bias_table"):
            side = (int((len(table) - 3) ** 0.5) + 1) // 2
            out[name.replace("bias_table", "index")] = index_buffer(side)
    return out


def paddlevit(unilm):
    return with_index(paddle_layout(unilm))


def passl(unilm, head="fc_cls"):
    out = {}
    for name, array in with_index(paddle_layout(unilm)).items():
        out[name.replace("head.", f"head.{head}.") if name.startswith("head.") else f"backbone.{name}"] = (
            array
        )
    return out


def paddleclas(unilm):
    """Class token pooling; one bias for q, k and v; no bias in the patch embedding; a leftover of CLIP."""
    out = {"proj": np.ones((4, 4), np.float32)}
    for name, array in with_index(paddle_layout(unilm)).items():
        if name == "patch_embed.proj.bias":
            continue
        if name.endswith("v_bias"):
            q = unilm[name.replace("v_bias", "q_bias")]
            out[name.replace("v_bias", "qkv.bias")] = np.concatenate([q, 0 * q, array])
        elif not name.endswith("q_bias"):
            out[name.replace("head.", "head.fc_head.") if name.startswith("head.") else name] = array
    return out


def unilm_file(unilm, wrapper="model"):
    return {wrapper: with_index(unilm)}


_HUGGINGFACE = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "gamma_1": "lambda_1",
    "gamma_2": "lambda_2",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "attn.q_bias": "attention.attention.query.bias",
    "attn.v_bias": "attention.attention.value.bias",
    "attn.relative_position_bias_table": "attention.attention.relative_position_bias.relative_position_bias_table",
}
_RUNTIME = {
    **_HUGGINGFACE,
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "attn.q_bias": "attention.q_proj.bias",
    "attn.v_bias": "attention.v_proj.bias",
    "attn.relative_position_bias_table": "relative_position_bias.relative_position_bias_table",
}
_OUTSIDE = {
    "cls_token": "beit.embeddings.cls_token",
    "mask_token": "beit.embeddings.mask_token",
    "pos_embed": "beit.embeddings.position_embeddings",
    "patch_embed.proj.weight": "beit.embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "beit.embeddings.patch_embeddings.projection.bias",
}


def huggingface(unilm, *, runtime=False):
    """The published layout, or the names transformers 5 has in memory."""
    inner, layer = (_RUNTIME, "beit.layers.{}.") if runtime else (_HUGGINGFACE, "beit.encoder.layer.{}.")
    is_mim = "lm_head.weight" in unilm
    out = {}
    for name, array in unilm.items():
        name = name.removeprefix("backbone.")
        match = re.match(r"blocks\.(\d+)\.(.+)", name)
        if match:
            prefix, rest = layer.format(match[1]), match[2]
            if rest == "attn.qkv.weight":
                names = (
                    ["q_proj", "k_proj", "v_proj"]
                    if runtime
                    else ["attention." + n for n in ("query", "key", "value")]
                )
                d = array.shape[1]
                out |= {
                    f"{prefix}attention.{n}.weight": array[i * d : (i + 1) * d] for i, n in enumerate(names)
                }
                continue
            stem = next(key for key in inner if rest.startswith(key))
            out[prefix + rest.replace(stem, inner[stem])] = array
        elif name in _OUTSIDE:
            out[_OUTSIDE[name]] = array
        elif name.startswith("rel_pos_bias."):
            module = "beit.shared_position_bias." if runtime else "beit.encoder.relative_position_bias."
            out[module + "relative_position_bias_table"] = array
        elif name.startswith("norm."):
            out[("layernorm." if is_mim else "beit.layernorm.") + name.removeprefix("norm.")] = array
        else:
            for ours, theirs in (
                ("fc_norm.", "beit.pooler.layernorm."),
                ("head.", "classifier."),
                (".conv_seg.", ".classifier."),
            ):
                name = name.replace(ours, theirs) if name.startswith(ours) or ours[0] == "." else name
            out[_runtime_head(name) if runtime else name] = array
    return out


def _runtime_head(name):
    for old, new in (
        ("fpn1.0.", "conv_transpose1."),
        ("fpn1.1.", "normalization."),
        ("fpn1.3.", "conv_transpose2."),
    ):
        if name.startswith(old):
            return "fpn.fpn1." + new + name.removeprefix(old)
    name = re.sub(r"^fpn2\.0\.", "fpn.fpn2.", name)
    name = re.sub(r"\.conv\.weight$", ".convolution.weight", name).replace(".bn.", ".normalization.")
    name = re.sub(r"psp_modules\.(\d)\.1\.", r"psp_modules.blocks.\1.conv.", name)
    return name.replace("decode_head.bottleneck.", "decode_head.psp_bottleneck.")


_OPENMMLAB = {"norm1.": "ln1.", "norm2.": "ln2.", "mlp.fc1.": "ffn.layers.0.0.", "mlp.fc2.": "ffn.layers.1."}


def _openmmlab_block(rest):
    for ours, theirs in _OPENMMLAB.items():
        rest = rest.replace(ours, theirs)
    return rest


def openmmlab(unilm):
    """mmpretrain and mmselfsup classifier and pre-training, mmseg's UPerNet, under `state_dict`."""
    version_2 = any(name.startswith("cls_pt_") for name in unilm)
    out = {}
    for name, array in with_index(unilm).items():
        name = name.removeprefix("backbone.").replace("patch_embed.proj.", "patch_embed.projection.")
        if name.startswith("blocks."):
            _, i, rest = name.split(".", 2)
            name = f"backbone.layers.{i}.{_openmmlab_block(rest)}"
        elif name.startswith("cls_pt_layers."):
            _, i, rest = name.split(".", 2)
            name = f"neck.patch_aggregation.{i}.{_openmmlab_block(rest)}"
        elif name.startswith("fpn1."):
            name = name.replace("fpn1.", "neck.upsample_4x.")
        elif name.startswith("fpn2."):
            name = name.replace("fpn2.", "neck.upsample_2x.")
        elif name.startswith("norm."):
            name = name.replace("norm.", "neck.norm." if version_2 else "backbone.ln1.")
        elif name.startswith("fc_norm."):
            name = name.replace("fc_norm.", "backbone.ln2.")
        elif name.startswith("head."):
            name = name.replace("head.", "head.fc.")
        elif name.startswith("lm_head."):
            name = name.replace("lm_head.", "head.cls_head.")
        elif not name.startswith(("decode_head.", "auxiliary_head.")):
            name = f"backbone.{name}"
        out[name] = array
    return {"meta": {"epoch": 3}, "state_dict": out}


def openmmlab_vqkd(unilm):
    """The encoder half alone, as a target generator."""
    out = {}
    for name, array in unilm.items():
        if name.startswith("encoder.blocks."):
            _, _, i, rest = name.split(".", 3)
            out[f"encoder.layers.{i}.{_openmmlab_block(rest)}"] = array
        elif name.startswith("encoder."):
            name = name.replace("patch_embed.proj.", "patch_embed.projection.").replace("fc_norm.", "ln1.")
            out[name] = array
        elif not name.startswith(
            ("decoder.", "decode_task", "quantize.embedding.cluster", "quantize.embedding.embed")
        ):
            out[name] = array
    return {"state_dict": out}
