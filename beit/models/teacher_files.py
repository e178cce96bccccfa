"""Published CLIP and DINO weights under the names of `Teacher`. Does not need Paddle."""

from __future__ import annotations

from pathlib import Path

from beit.checkpoint.canonical import State
from beit.checkpoint.errors import CheckpointError
from beit.checkpoint.open import open_checkpoint


def read_teacher(path: str | Path, kind: str) -> State:
    """Tensors of a CLIP or DINO vision transformer by the names of `Teacher`, float32, Linear weights (in, out).

    Args:
        path: file, or folder of transformers.
        kind: `"clip"` or `"dino"`, or `"beit"` for a classifier of this package without relative positions.
    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it cannot be read, is no such teacher, or has tensors that do not belong to one.
    """
    if kind == "beit":
        return _read_classifier(path)
    checkpoint = open_checkpoint(path, teacher=True)
    info, name = checkpoint.info, kind.upper()
    if info.kind != kind:
        raise CheckpointError(
            f"{path} is no {name} vision transformer (it holds a {info.kind.upper()} model); "
            "TOKENIZER.TEACHER and TOKENIZER.TEACHER_PRETRAINED must agree"
        )
    if info.unknown:
        raise CheckpointError(f"{path}: {info.unknown[0]} is no tensor of a {name} vision transformer")
    return checkpoint.state


def _read_classifier(path: str | Path) -> State:
    """A BEiT classifier of any publisher that is a plain vision transformer; `norm` then acts on each patch token."""
    checkpoint = open_checkpoint(path)
    found = checkpoint.info.architecture
    if not found.has_absolute_positions or found.has_relative_positions or found.has_layer_scale:
        raise CheckpointError(
            f"{checkpoint.info.name} is no plain vision transformer: a teacher needs absolute positions "
            "(MODEL.USE_ABS_POS_EMB True) and neither relative ones nor LayerScale (MODEL.USE_REL_POS_BIAS False, "
            "MODEL.INIT_VALUES 0)"
        )
    return {
        name.replace("fc_norm.", "norm."): array
        for name, array in checkpoint.state.items()
        if not name.startswith(("head.", "mask_token"))
    }
