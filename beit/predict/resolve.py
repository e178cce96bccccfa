"""From a published name, a run folder or a file to weights with their config, and to the classifier they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from yacs.config import CfgNode

from beit.beit import Beit, build_beit
from beit.checkpoint.canonical import BACKBONE, CLASSIFIER, DALLE, Architecture, missing_names
from beit.checkpoint.load import load_pretrained
from beit.checkpoint.metadata import RUN_CONFIG, is_run_file
from beit.checkpoint.open import open_checkpoint, weights_file
from beit.checkpoint.stated import NUM_HEADS_UNKNOWN, StatedModel
from beit.checkpoint.translate import Checkpoint
from beit.config import get_config, with_options
from beit.containers.errors import listed
from beit.flags import keyword_options
from beit.zoo.table import PUBLISHED


@dataclass(frozen=True)
class Weights:
    """A weights file, the config of its model (None if it must be derived from the file), and its name for messages."""

    path: Path
    config: CfgNode | None
    name: str


def find_weights(source: str | Path, config: CfgNode | str | Path | None = None) -> Weights:
    """The weights of a published name, a run folder or a file, with their config.

    Args:
        source: name from `list_models()` (its file is downloaded into the cache), the output folder of a run, or any
            checkpoint; the config of a file in a run folder is the run's `config.yaml`.
        config: replaces the config found: a config, or the file or name of one.

    Raises:
        FileNotFoundError, CheckpointError: as `weights_file`.
        DownloadError: as `beit.zoo.download.fetch`.
    """
    tree = get_config(config) if isinstance(config, str | Path) else config
    file = weights_file(source)
    if tree is None and is_run_file(file):
        tree = get_config(file.with_name(RUN_CONFIG))
    if Path(source).exists():
        return Weights(file if is_run_file(file) else Path(source), tree, str(source))
    entry = PUBLISHED[str(source)]
    if tree is None and entry.kind not in DALLE:  # the config of DALL-E is that of a pre-training run
        tree = get_config(entry.config, list(entry.options))
    return Weights(file, tree, entry.name)


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
    own = {"MODEL.PRETRAINED": find_weights(folder).path, "SAVE": folder}
    return get_config(folder / RUN_CONFIG, [*keyword_options(own), *given])


def load_classifier(weights: Weights) -> Beit:
    """The classifier, or the encoder if the file has no head, with its weights, in evaluation mode.

    Without a config the architecture is derived from the shapes of the tensors.

    Raises:
        ValueError: the file holds another kind of model, its image size is unknown, or tensors are missing.
        CheckpointError: it cannot be read.
    """
    opened = open_checkpoint(weights.path)
    config = weights.config
    model = build_beit(config_of_file(opened, weights.name) if config is None else config)
    if config is None and opened.info.preprocessing.mean is None:
        model.preprocessing = (
            opened.info.preprocessing
        )  # unknown statistics, instead of the defaults of the config
    report = load_pretrained(model, opened)
    if report.new:
        raise ValueError(
            f"{weights.path} has no weights for {', '.join(list(report.new)[:4])} ({next(iter(report.new.values()))}): "
            "fine-tune it first, or take its features with the config MODEL.NUM_CLASSES 0"
        )
    model.eval()
    return model


def config_of_file(opened: Checkpoint, name: str) -> CfgNode:
    """The config of the classifier or encoder in a checkpoint, derived from the shapes of its tensors.

    Args:
        opened: the checkpoint.
        name: what to call it in messages.

    Raises:
        ValueError: it is another kind of model, or its image size is unknown; a config is needed then. Or tensors are
            missing: their sizes are those of the model, so that no file makes a larger model than it holds.
    """
    info = opened.info
    if info.kind not in (CLASSIFIER, BACKBONE):
        raise ValueError(
            f"{name} holds a {info.kind} model, whose architecture cannot be derived from the file: give the config it "
            "was trained with (config=…, on the command line --cfg)"
        )
    if missing := missing_names(opened.state, info.kind):
        raise ValueError(
            f"{name} ({info.publisher} {info.kind}) lacks {listed(missing)}: the file is incomplete"
        )
    size = info.architecture.image_size or info.stated.image_size or info.preprocessing.image_size
    if not size:
        raise ValueError(
            f"the image size of {name} is unknown: state it as image_size in config.json beside the weights, or give its "
            "config (config=…, --cfg)"
        )
    if not info.architecture.num_heads:
        raise ValueError(f"{name}: {NUM_HEADS_UNKNOWN} (config=…, --cfg)")
    if info.stated.wrong_outputs:
        raise ValueError(f"{name} is no BEiT of this package: {'; '.join(info.stated.wrong_outputs)}")
    options = {
        "MODEL.NAME": Path(info.name).stem,
        "DATA.IMAGE_SIZE": size if isinstance(size, int) else list(size),
        **_model_options(info.architecture, info.stated),
        "MODEL.QKV_BIAS": "blocks.0.attn.q_bias" in opened.state,
    }
    if info.preprocessing.mean and info.preprocessing.std:
        options |= {
            "DATA.IMAGENET_MEAN": info.preprocessing.mean,
            "DATA.IMAGENET_STD": info.preprocessing.std,
        }
    return get_config(None, [item for pair in options.items() for item in pair])


def _model_options(found: Architecture, stated: StatedModel) -> dict[str, Any]:
    options = {
        "MODEL.LAYER_NORM_EPS": stated.epsilon,
        "MODEL.DROPPATH": stated.drop_path,
        "MODEL.DROPOUT": stated.dropout,
        "MODEL.ATTENTION_DROPOUT": stated.attention_dropout,
    }
    options = {key: value for key, value in options.items() if value is not None}
    if found.head_dim * found.num_heads != found.width:
        options["MODEL.ATTN_HEAD_SIZE"] = found.head_dim
    return options | {
        "MODEL.NUM_CLASSES": found.num_classes,
        "MODEL.PATCH_SIZE": found.patch_size,
        "MODEL.EMBED_DIM": found.width,
        "MODEL.DEPTH": found.depth,
        "MODEL.NUM_HEADS": found.num_heads,
        "MODEL.MLP_RATIO": found.mlp_width / found.width,
        "MODEL.INIT_VALUES": (stated.init_values or 0.1) if found.has_layer_scale else 0.0,
        "MODEL.USE_ABS_POS_EMB": found.has_absolute_positions,
        "MODEL.USE_REL_POS_BIAS": found.has_relative_positions,
        "MODEL.USE_SHARED_REL_POS_BIAS": found.has_shared_relative_positions,
        "MODEL.USE_MEAN_POOLING": found.pooling != "token",
    }
