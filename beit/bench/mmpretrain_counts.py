"""Parameters and FLOPs as mmpretrain's tables of BEiT and BEiT v2 count them."""

from __future__ import annotations

from typing import NamedTuple

import paddle
from paddle import nn
from yacs.config import CfgNode

from beit.beit import build_beit
from beit.bench.counting import count_multiply_adds, count_parameters
from beit.config import image_hw, with_options
from beit.models.tokenizer import build_vqkd


class MmpretrainCounts(NamedTuple):
    """Values of all parameters, and FLOPs of one image: multiply-adds by convention B of `counting.CONVENTIONS`."""

    parameters: int
    flops: int


def mmpretrain_counts(config: CfgNode, model: nn.Layer) -> MmpretrainCounts | None:
    """The numbers of a config as mmpretrain publishes them; None for tasks that its tables do not have.

    The pre-training model of BEiT is listed with the numbers of its fine-tuned classifier of 1000 classes. That of
    BEiT v2 includes the tokenizer without its decoder, the codebook and one LayerNorm more; its FLOPs are those of the
    classifier and a LayerNorm of one token.
    Source: mmpretrain, metafile.yml of configs/beit and configs/beitv2.

    Args:
        config: DATA.IMAGE_SIZE is the size at which operations are counted.
        model: that `build_model` has built from it.
    """
    if config.TASK not in ("classify", "pretrain"):
        return None
    classifier = model if config.TASK == "classify" else build_beit(_fine_tuned(config))
    flops = count_multiply_adds(classifier, paddle.zeros([1, 3, *image_hw(config)])).under("B")
    if config.TASK == "classify" or not config.MODEL.EARLY_LAYERS:
        return MmpretrainCounts(count_parameters(classifier), flops)
    keys = config.TOKENIZER
    tokenizer = count_parameters(build_vqkd(config, with_decoder=False)) + keys.NUM_CODES * keys.CODE_DIM
    norm = 2 * config.MODEL.EMBED_DIM
    return MmpretrainCounts(count_parameters(model) + tokenizer + norm, flops + 5 * config.MODEL.EMBED_DIM)


def _fine_tuned(config: CfgNode) -> CfgNode:
    """The config of the classifier of 1000 classes with the encoder of a pre-training config."""
    tables = ["MODEL.USE_REL_POS_BIAS", True, "MODEL.USE_SHARED_REL_POS_BIAS", False]
    pooled = ["MODEL.USE_MEAN_POOLING", True, "MODEL.NUM_CLASSES", 1000]
    return with_options(config, ["TASK", "classify", "MODEL.EARLY_LAYERS", 0, *tables, *pooled])
