"""The network that a config describes, with random weights."""

from __future__ import annotations

from collections.abc import Callable

from yacs.config import CfgNode

from beit.beit import Beit, build_backbone, build_beit
from beit.models.mim import build_mim
from beit.models.tokenizer import build_vqkd
from beit.models.upernet import UperNet, build_upernet
from beit.models.vqkd import VqKd

BUILDERS: dict[str, Callable[[CfgNode], Beit | UperNet | VqKd]] = {
    "classify": build_beit,
    "multilabel": build_beit,
    "probe": build_backbone,
    "knn": build_backbone,
    "segment": build_upernet,
    "pretrain": build_mim,
    "tokenizer": build_vqkd,
}
"""TASK of a config -> function that builds its network."""


def build_model(config: CfgNode) -> Beit | UperNet | VqKd:
    """The network of a config, chosen by its TASK, with random weights."""
    return BUILDERS[config.TASK](config)
