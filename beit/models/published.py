"""The networks of published checkpoints and of configs, with their weights on request."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from yacs.config import CfgNode

from beit.beit import Beit
from beit.config import get_config, with_options
from beit.metadata.architecture import CLASSIFIER, SEGMENTATION
from beit.metadata.class_names import PUBLISHED_LISTS
from beit.models.build import build_model
from beit.models.dalle import DalleDecoder, DalleEncoder, DalleTokenizer
from beit.models.load import load_pretrained
from beit.models.tokenizer import TRAINING_STATE, build_dalle_decoder, build_dalle_encoder, build_tokenizer
from beit.models.upernet import UperNet
from beit.models.vqkd import VqKd
from beit.zoo import fetch_published, published
from beit.zoo.table import PUBLISHED

Network: TypeAlias = Beit | UperNet | VqKd | DalleTokenizer | DalleEncoder | DalleDecoder

_TOKENIZERS: dict[str, Callable[[CfgNode], Network]] = {
    "vqkd": build_tokenizer,
    "dalle_encoder": build_dalle_encoder,
    "dalle_decoder": build_dalle_decoder,
}
"""Kind of a tokenizer's checkpoint (`Published.kind`) -> function that builds its network; `build_model` builds others."""

_LOGGER = logging.getLogger(__name__)


def get_model(name: str, pretrained: bool | str | Path = False, num_classes: int | None = None) -> Network:
    """The network of a published checkpoint or a config in evaluation mode, with weights on request.

    What was loaded is logged. Call the model's `train()` before you train it.

    Args:
        name: from `list_models()`. A pre-training checkpoint gives the model that predicts masked patches, or, with
            `num_classes`, the classifier that starts from its encoder; a VQ-KD tokenizer comes without its decoder.
            Or the name or file of a config (`beit_tiny_patch16_224`), for the model that it trains.
        pretrained: True downloads the file into the cache (see `beit.zoo.download`); a path loads that file instead.
        num_classes: number of classes of a new head, 0 for no head; None keeps the published one.

    Raises:
        ValueError: unknown name; `num_classes` for a tokenizer; the weights do not fit, or none are published.
        DownloadError: the file could not be fetched; the message says where to put it.

    Examples:
        model = beit.get_model("beitv2_base_patch16_224_pt1k_ft21kto1k", pretrained=True)
    """
    if name not in PUBLISHED:
        return _model_of_config(name, pretrained, num_classes)
    entry = published(name)
    kind, config = entry.kind, entry.config
    options = list(entry.options)
    if num_classes is not None:
        if kind not in (CLASSIFIER, SEGMENTATION) and not entry.classifier_config:
            raise ValueError(f"{name} is a {kind}, which has no classes: leave num_classes out")
        options += ["MODEL.NUM_CLASSES", num_classes]
        if entry.classifier_config:
            kind, config = CLASSIFIER, entry.classifier_config
    model: Network = _TOKENIZERS.get(kind, build_model)(get_config(config, options))
    model.eval()
    if pretrained is not False:
        _load(model, fetch_published(entry) if pretrained is True else pretrained)
        if isinstance(model, Beit) and entry.kind == CLASSIFIER and num_classes is None:
            model.class_names = model.class_names or PUBLISHED_LISTS.get(entry.num_classes)
    return model


def _model_of_config(name: str, pretrained: bool | str | Path, num_classes: int | None) -> Network:
    try:
        config = get_config(name)
    except FileNotFoundError:
        if Path(name).suffix in (".yaml", ".py"):
            raise
        published(name)  # raises the error that names similar checkpoints
        raise
    if num_classes is not None:
        if config.TASK not in ("classify", "multilabel", "segment"):
            raise ValueError(
                f"{name} is a config of TASK: {config.TASK}, whose models have no classes: leave num_classes out"
            )
        config = with_options(config, ["MODEL.NUM_CLASSES", num_classes])
    if pretrained is True:
        raise ValueError(
            f"{name} is a config without published weights: pretrained=FILE loads a file; beit.list_models() has names"
        )
    model = build_model(config)
    model.eval()
    if pretrained is not False:
        _load(model, pretrained)
    return model


def _load(model: Network, path: str | Path) -> None:
    _LOGGER.info("%s", load_pretrained(model, path, allow_missing=TRAINING_STATE))
