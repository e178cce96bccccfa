"""The teachers of VQ-KD: vision transformers of CLIP (OpenAI, transformers) and DINO (facebookresearch, timm, transformers).

Source: openai/CLIP, clip/model.py; facebookresearch/dino, vision_transformer.py; transformers, models/clip, models/vit.
"""

from __future__ import annotations

from functools import partial

from beit.checkpoint.key_format import KeyFormat, Rules, under
from beit.checkpoint.publishers import huggingface
from beit.metadata.architecture import CLIP, DINO

_TEXT_TOWER = "text model of CLIP"
_KEY_BIAS = "bias of the keys: it adds the same number to all scores of a query, which softmax cancels"
_OPENAI_BLOCK: Rules = (
    ("attn.in_proj_weight", "attn.qkv.weight"),
    ("attn.in_proj_bias", "attn.qkv.bias"),
    ("attn.out_proj.*", "attn.proj.*"),
    ("ln_1.*", "norm1.*"),
    ("ln_2.*", "norm2.*"),
    ("mlp.c_fc.*", "mlp.fc1.*"),
    ("mlp.c_proj.*", "mlp.fc2.*"),
)
_OPENAI: Rules = (
    ("class_embedding", "cls_token"),
    ("positional_embedding", "pos_embed"),
    ("conv1.weight", "patch_embed.proj.weight"),
    ("ln_pre.*", "pre_norm.*"),
    ("ln_post.*", "norm.*"),
    ("proj", "proj.weight"),
    *under("transformer.resblocks.{i}.", _OPENAI_BLOCK, "blocks.{i}."),
)
_CLIP_BLOCK: Rules = (
    *((f"self_attn.{part}_proj.weight", f"attn.{part}.weight") for part in "qkv"),
    *((f"self_attn.{part}_proj.bias", f"attn.{part}_bias") for part in "qv"),
    ("self_attn.out_proj.*", "attn.proj.*"),
    ("layer_norm1.*", "norm1.*"),
    ("layer_norm2.*", "norm2.*"),
    ("mlp.*", "mlp.*"),
)
_CLIP: Rules = (
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embedding.weight", "pos_embed"),
    ("embeddings.patch_embedding.weight", "patch_embed.proj.weight"),
    ("pre_layrnorm.*", "pre_norm.*"),
    ("post_layernorm.*", "norm.*"),
    *under("encoder.layers.{i}.", _CLIP_BLOCK, "blocks.{i}."),
)
_VIT: Rules = (
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection.*", "patch_embed.proj.*"),
    ("layernorm.*", "norm.*"),
    *under("encoder.layer.{i}.", huggingface.BLOCK_RULES, "blocks.{i}."),
)

_openai = partial(KeyFormat, publisher="openai", kinds=(CLIP,), untransposed=("proj.weight",))
FORMATS = (
    _openai(
        has=("visual.ln_pre.weight",), rules=under("visual.", _OPENAI), drops=(("!visual.*", _TEXT_TOWER),)
    ),
    _openai(has=("ln_pre.weight",), rules=_OPENAI),  # the vision transformer alone
    KeyFormat(
        publisher="huggingface",
        kinds=(CLIP,),
        has=("*pre_layrnorm.weight",),
        rules=(("visual_projection.weight", "proj.weight"), *under("vision_model.", _CLIP)),
        aliases=tuple(
            (f"{module}.*", f"vision_model.{module}.*")
            for module in ("embeddings", "pre_layrnorm", "encoder", "post_layernorm")
        ),
        drops=(
            ("*embeddings.position_ids", "indices of the positions"),
            ("*self_attn.k_proj.bias", _KEY_BIAS),
            ("!vis*", _TEXT_TOWER),
        ),
    ),
    KeyFormat(
        publisher="dino",
        kinds=(DINO,),
        has=("*blocks.{i}.attn.qkv.weight", "*blocks.{i}.attn.qkv.bias"),
        aliases=(("backbone.*", "*"),),
        drops=(("head.*", "projection head of DINO's training"), ("mask_token", "used in pre-training only")),
    ),
    KeyFormat(
        publisher="huggingface",
        kinds=(DINO,),
        has=("*embeddings.position_embeddings",),
        rules=_VIT,
        aliases=(("vit.*", "*"),),
        drops=(("pooler.*", "pooler of transformers, not part of DINO"), ("*attention.key.bias", _KEY_BIAS)),
    ),
)
