"""Which config keys only some tasks read, and the keys of a config that its own task does not."""

from __future__ import annotations

from yacs.config import CfgNode

from beit.config import value_of
from beit.schema import SCHEMA, shorten

_SEGMENT = (
    *("DATA.ALLOW_ABSENT_CLASSES", "DATA.REDUCE_ZERO_LABEL", "DATA.IGNORE_LABEL", "DATA.RESIZE_LIMITS"),
    *("MODEL.OUT_INDICES", "MODEL.DECODER_CHANNELS", "MODEL.AUXILIARY_CHANNELS", "MODEL.POOL_SCALES"),
    *("MODEL.DECODER_DROPOUT", "TRAIN.AUXILIARY_WEIGHT", "TRAIN.RESIZE_RATIO", "TRAIN.CAT_MAX_RATIO"),
    *("TRAIN.PHOTOMETRIC", "TEST.MODE", "TEST.STRIDE", "TEST.SCALES"),
)
_PRETRAIN = (
    *("MODEL.EARLY_LAYERS", "MODEL.HEAD_LAYERS", "MODEL.SHARED_LM_HEAD", "DATA.SECOND_INTERPOLATION"),
    *("DATA.TOKEN_CACHE", "MASK.RULE", "MASK.NUM_PATCHES", "MASK.MIN_BLOCK", "MASK.MAX_BLOCK"),
)
_CLASSIFY = (
    *(
        "TRAIN.MIXUP_ALPHA",
        "TRAIN.CUTMIX_ALPHA",
        "TRAIN.CUTMIX_MINMAX",
        "TRAIN.MIXUP_PROB",
        "TRAIN.MIXUP_MODE",
    ),
    *("TRAIN.MIXUP_SWITCH_PROB", "TRAIN.SMOOTHING"),
)
TASKS_OF_KEY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_SEGMENT, ("segment",)),
    **dict.fromkeys(_PRETRAIN, ("pretrain",)),
    **dict.fromkeys(_CLASSIFY, ("classify", "multilabel")),
    **dict.fromkeys(["TEST.CROPS", "TEST.CLASS_SUBSET"], ("classify", "multilabel")),
    **dict.fromkeys(["TRAIN.LOSS", "TRAIN.BCE_THRESHOLD", "TRAIN.BCE_SUM"], ("classify", "multilabel")),
    "TEST.FLIP": ("classify", "multilabel", "segment"),
    "TEST.REAL_LABELS": ("classify",),
    "TEST.THRESHOLD": ("multilabel",),
    **dict.fromkeys([key for key in SCHEMA if key.startswith("MODEL.LORA.")], ("classify", "multilabel")),
    **dict.fromkeys([key for key in SCHEMA if key.startswith("TRAIN.DISTILL.")], ("classify",)),
    **dict.fromkeys([key for key in SCHEMA if key.startswith("TOKENIZER.")], ("pretrain", "tokenizer")),
    **dict.fromkeys([key for key in SCHEMA if key.startswith("PROBE.")], ("probe", "knn")),
    **dict.fromkeys(["PROBE.NEIGHBORS", "PROBE.TEMPERATURE", "PROBE.KNN_IMAGES"], ("knn",)),
    **dict.fromkeys(["PROBE.OPTIMIZER", "PROBE.BATCH_NORM"], ("probe",)),
}
"""Key -> tasks that read it, for the keys that not every task reads."""


def unread_keys(config: CfgNode) -> list[str]:
    """One line per key that is set, differs from its default and is not off, and that the task of the config does not read."""
    lines = []
    for key, tasks in TASKS_OF_KEY.items():
        value = value_of(config, key)
        if config.TASK not in tasks and value != SCHEMA[key].default and value not in (None, 0, ()):
            readers = " and ".join(tasks)
            lines.append(
                f"{key} = {shorten(value)} has no effect in TASK: {config.TASK}, only in {readers}; leave it out"
            )
    return lines
