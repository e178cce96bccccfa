"""From a published name, a run folder or a file to weights with their config, and to the network they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import paddle
from yacs.config import CfgNode

from beit.beit import Beit
from beit.checkpoint.open import open_checkpoint, weights_file
from beit.checkpoint.translate import Checkpoint
from beit.config import config_of_text, get_config, with_options
from beit.containers.errors import listed
from beit.data.image_mask import class_names_and_palette
from beit.flags import keyword_options
from beit.metadata.architecture import DALLE, DALLE_DECODER, DALLE_ENCODER, VQKD
from beit.metadata.files import RUN_CONFIG, is_run_file
from beit.models.build import build_model
from beit.models.dalle import DalleTokenizer
from beit.models.load import load_pretrained
from beit.models.published import Network
from beit.models.tokenizer import TRAINING_STATE, build_dalle_decoder, build_dalle_encoder, build_vqkd
from beit.predict.file_config import config_of_file
from beit.preprocessing import ImageSize, height_width
from beit.zoo import path_of
from beit.zoo.table import PUBLISHED


@dataclass(frozen=True)
class Weights:
    """A weights file, the config of its model (None if it must be derived from the file), and its name for messages."""

    path: Path
    config: CfgNode | None
    name: str
    key: str | None = None  # of the state dict in the file, as in `load_pretrained`


class Opened(NamedTuple):
    """A checkpoint, the config of its model, and whether it was derived from the file."""

    checkpoint: Checkpoint
    config: CfgNode
    is_derived: bool


def find_weights(
    source: str | Path, config: CfgNode | str | Path | None = None, key: str | None = None
) -> Weights:
    """The weights of a published name, a run folder or a file, with their config.

    Args:
        source: name from `list_models()` (its file is downloaded into the cache), the output folder of a run, or any
            checkpoint; the config of a file in a run folder is the run's `config.yaml`.
        config: replaces the config found: a config, or the file or name of one.
        key: of the state dict in the file, as in `load_pretrained`.

    Raises:
        FileNotFoundError, CheckpointError: as `path_of` and `weights_file`.
        DownloadError: as `beit.zoo.download.fetch`.
    """
    tree = get_config(config) if isinstance(config, str | Path) else config
    file = weights_file(path_of(source))
    if tree is None and is_run_file(file):
        tree = get_config(file.with_name(RUN_CONFIG))
    if Path(source).exists():
        return Weights(file if is_run_file(file) else Path(source), tree, str(source), key)
    entry = PUBLISHED[str(source)]
    if tree is None and entry.kind not in DALLE:  # the config of DALL-E is that of a pre-training run
        tree = get_config(entry.config, list(entry.options))
    return Weights(file, tree, entry.name, key)


ConfigSource: TypeAlias = CfgNode | str | Path
"""A config, the name or file of one, or the output folder of a run."""


def config_of(source: ConfigSource, **options: Any) -> CfgNode:
    """The config of a run folder, with its weights as MODEL.PRETRAINED and the folder as SAVE; or the config itself.

    Args:
        source: a config, the name or file of one, or the output folder of a run.
        options: values that replace those of the config, as `beit.flags.keyword_options` takes them.

    Raises:
        FileNotFoundError, ValueError: as `find_weights`, `get_config` and `keyword_options`.
    """
    given = keyword_options(options)
    if isinstance(source, CfgNode):
        return with_options(source, given)
    folder = Path(source)
    if not (folder / RUN_CONFIG).is_file():
        return get_config(source, given)
    own = {"MODEL.PRETRAINED": find_weights(folder).path, "MODEL.PRETRAINED_KEY": "", "SAVE": folder}
    return get_config(folder / RUN_CONFIG, [*keyword_options(own), *given])


def load_model(
    source: str | Path, *, key: str | None = None, config: CfgNode | str | Path | None = None
) -> Network:
    """The network that a checkpoint holds, with its weights, in evaluation mode.

    A classifier or an encoder without head (`Beit`), a masked model (`BeitForMaskedImageModeling`), a segmentation model
    (`UperNet`), or a tokenizer whose method `encode` gives token ids (`VqKd`, `DalleTokenizer`; of DALL-E's decoder the
    `DalleDecoder`). Its attributes `preprocessing` and `class_names` are those of the file, None where unknown.

    Args:
        source: name from `list_models()` (its file is downloaded into the cache), output folder of a run, any other
            folder of weights, or any checkpoint.
        key: of the state dict in the file, as in `load_pretrained`.
        config: of the model: a config, or the file or name of one. Without it, it is that of the run or of the published
            name, or derived from the shapes of the tensors.

    Raises:
        FileNotFoundError: there is no such file, folder or name.
        CheckpointError: the file cannot be read, or is not of a known publisher.
        ValueError: tensors are missing, do not fit the config, or do not show all sizes of the model; the message names the
            config key.

    Examples:
        model = beit.load_model("output/run")
        logits = model(images)
    """
    weights = find_weights(source, config, key)
    opened = open_weights(weights)
    model = build_loaded(opened, weights.name)
    if not isinstance(model, Beit):
        info = opened.checkpoint.info
        model.preprocessing, model.class_names = info.preprocessing, info.class_names
        if opened.config.TASK == "segment" and info.class_names is None:
            folder = weights.path if weights.path.is_dir() else weights.path.parent
            model.class_names = class_names_and_palette(opened.config, folder)[0]
    elif model.preprocessing is None:
        model.preprocessing = opened.checkpoint.info.preprocessing
    return model


def open_weights(weights: Weights, image_size: ImageSize | None = None) -> Opened:
    """The checkpoint of the weights, and their config or the one derived from the file.

    Args:
        weights: of `find_weights`.
        image_size: replaces DATA.IMAGE_SIZE of the config, pixels.

    Raises:
        ValueError, CheckpointError: as `load_model`.
    """
    checkpoint = open_checkpoint(weights.path, key=weights.key)
    config, is_derived = weights.config, False
    if config is None and checkpoint.info.run_config:
        config = config_of_text(checkpoint.info.run_config, weights.name)
    elif config is None:
        config, is_derived = config_of_file(checkpoint, weights.name), True
    if image_size is not None:
        config = with_options(config, ["DATA.IMAGE_SIZE", list(height_width(image_size))])
    return Opened(checkpoint, config, is_derived)


def is_tokenizer(opened: Opened) -> bool:
    """Whether the weights are a network with the method `encode`; DALL-E's decoder is not."""
    return opened.checkpoint.info.kind in (VQKD, DALLE_ENCODER)


def build_loaded(opened: Opened, name: str) -> Network:
    """The network of a config with the weights of a checkpoint, in evaluation mode.

    Args:
        opened: both. The network uses the memory of the checkpoint's arrays.
        name: what to call them in messages.

    Raises:
        ValueError: the weights are incomplete, or do not fit the config.
    """
    (state, info), config, is_derived = opened
    build = _TOKENIZERS.get(info.kind, build_model)
    with paddle.LazyGuard():  # without random values: drawing them takes longer than reading the file
        model = build(config)
    if is_derived and isinstance(model, Beit) and info.preprocessing.mean is None:
        model.preprocessing = info.preprocessing  # unknown statistics, instead of the defaults of the config
    report = load_pretrained(model, opened.checkpoint, allow_missing=TRAINING_STATE, copy=False)
    new = [tensor for tensor in report.new if tensor not in TRAINING_STATE]
    if new:
        raise ValueError(
            f"{name} has no weights for {listed(new, 4)} ({report.new[new[0]]}): fine-tune it first, or take its features "
            "with the config MODEL.NUM_CLASSES 0"
        )
    network = DalleTokenizer(model) if info.kind == DALLE_ENCODER else model
    network.eval()
    return network


_TOKENIZERS: dict[str, Callable[[CfgNode], Network]] = {
    VQKD: lambda config: build_vqkd(config, with_decoder=False),
    DALLE_ENCODER: build_dalle_encoder,
    DALLE_DECODER: build_dalle_decoder,
}
"""Kind of a tokenizer's weights -> function that builds its network, also from a config of pre-training."""
