"""The number of classes of a run, which its data state."""

from __future__ import annotations

from yacs.config import CfgNode

from beit.config import with_options
from beit.data.splits import count_classes

_TASKS = ("classify", "multilabel", "probe", "knn")


def with_classes_of_data(config: CfgNode) -> CfgNode:
    """The config with the number of classes of its data, unless MODEL.NUM_CLASSES is stated or belongs to given weights.

    Args:
        config: of a run. An evaluation keeps its number, which is that of its weights; kNN has no weights of classes.

    Raises:
        FileNotFoundError, ValueError: as `count_classes`.
    """
    is_evaluation = config.EVAL and config.TASK != "knn"
    if not config.MODEL.NUM_CLASSES_FROM_DATA or config.TASK not in _TASKS or is_evaluation:
        return config
    return with_options(config, ["MODEL.NUM_CLASSES", count_classes(config)])
