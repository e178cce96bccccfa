"""The shapes of the tensors of a file must agree with their names and with each other."""

from __future__ import annotations

import re
from collections.abc import Mapping

from beit.checkpoint.canonical import BACKBONE_PREFIX, axes_of
from beit.containers.errors import CheckpointError, shown

_SCOPES = (BACKBONE_PREFIX, "encoder.", "decoder.")


def check_shapes(shapes: Mapping[str, tuple[int, ...]], kind: str) -> None:
    """Compare the shapes of a canonical state with each other.

    Args:
        shapes: by canonical name.
        kind: of model.
    Raises:
        CheckpointError: a tensor is empty, has another number of axes than its name says, or contradicts another one.
    """
    # letter and where it holds -> its number, and the tensor that has it
    known: dict[str, tuple[int, str]] = {}
    for name, shape in shapes.items():
        scope = next((prefix for prefix in _SCOPES if name.startswith(prefix)), "")
        layer = re.sub(r"\.(conv|bn)$", "", name.rpartition(".")[0])
        axes = (axes_of(name, kind) or "").split()
        expected, origins = [], {}
        for axis, size in zip(axes, shape, strict=False):
            factor, letter = int(axis[:-1] or 1), axis[-1]
            if letter.isdigit():
                expected.append(int(axis))
                continue
            place = f"{layer}.{letter}" if letter.islower() else f"{scope}{letter}"
            number, origin = known.setdefault(place, (size // factor, name))
            expected.append(factor * number)
            if origin != name:
                origins[f"{letter} = {number}"] = shown(origin)
        if 0 in shape:
            raise CheckpointError(f"tensor {shown(name)} is empty: its shape is {list(shape)}")
        if axes and (len(shape) != len(axes) or list(shape) != expected):
            known_from = ", ".join(f"{what} ({origin})" for what, origin in origins.items())
            raise CheckpointError(
                f"tensor {shown(name)} has shape {list(shape)}, expected [{', '.join(axes)}]"
                + (f" with {known_from}" if known_from else "")
            )
