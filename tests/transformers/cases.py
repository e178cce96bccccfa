"""Small models of every class, with arguments, and what transformers returns for them (`outputs.npz`).

`outputs.npz` was written with transformers 5.24 and torch 2.14 by

    python -c "from tests.transformers.cases import store; store()"
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from beit import transformers as ours
from beit.checkpoint.files import read, write

STORED = Path(__file__).with_name("outputs.npz")
TINY: dict[str, Any] = {
    "hidden_size": 12, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 20,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip
TABLES = {"use_relative_position_bias": True}
_RNG = np.random.default_rng(0)
MASK = np.array([[True, False, True, True], [False, True, False, False]])
LABEL_MAP = _RNG.integers(0, 5, (2, 8, 8))
LABEL_MAP[0, :3] = 255


@dataclass(frozen=True)
class Case:
    """A model class, its config on top of `TINY`, and the arguments of `forward`."""

    name: str
    config: dict[str, Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (8, 8)

    @property
    def pixels(self) -> np.ndarray:
        """Two images, `[2, 3, height, width]`."""
        return np.random.default_rng(2).standard_normal((2, 3, *self.size)).astype(np.float32)


_MASKED = {"bool_masked_pos": MASK}
_FOUR = TABLES | {"out_indices": [1, 2, 3, 4]}
_OTHER_SIZE = (12, 8)
_SEGMENT = _FOUR | {"num_labels": 5, "auxiliary_channels": 6}
_CLASSIFY = TABLES | {"num_labels": 5}
CASES = {
    "model, tables": Case("BeitModel", TABLES),
    "model, absolute positions, class token": Case(
        "BeitModel",
        {"use_absolute_position_embeddings": True, "use_mean_pooling": False, "layer_scale_init_value": 0.0},
    ),
    "model, mask, both tables": Case(
        "BeitModel", TABLES | {"use_shared_relative_position_bias": True, "use_mask_token": True}, _MASKED
    ),
    "model, other activation and epsilon": Case(
        "BeitModel", TABLES | {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3}
    ),
    "model, other size, tables": Case("BeitModel", TABLES, {"interpolate_pos_encoding": True}, _OTHER_SIZE),
    "model, other size, shared table": Case(
        "BeitModel", {"use_shared_relative_position_bias": True}, {}, _OTHER_SIZE
    ),
    "model, other size, absolute positions": Case(
        "BeitModel",
        {"use_absolute_position_embeddings": True},
        {"interpolate_pos_encoding": True},
        _OTHER_SIZE,
    ),
    "model, part of a patch left over": Case("BeitModel", TABLES, {}, (11, 9)),
    "masked": Case(
        "BeitForMaskedImageModeling",
        {"use_shared_relative_position_bias": True, "use_mask_token": True, "vocab_size": 7},
        _MASKED | {"labels": np.array([3, 0, -100, 6])},
    ),
    "classes": Case("BeitForImageClassification", _CLASSIFY, {"labels": np.array([1, 3])}),
    "several classes": Case(
        "BeitForImageClassification", _CLASSIFY, {"labels": np.eye(5, dtype=np.float32)[[2, 0]]}
    ),
    "regression": Case(
        "BeitForImageClassification", TABLES | {"num_labels": 1}, {"labels": np.array([0.3, 2], np.float32)}
    ),
    "regression of several numbers": Case(
        "BeitForImageClassification",
        _CLASSIFY | {"problem_type": "regression"},
        {"labels": _RNG.standard_normal((2, 5)).astype(np.float32)},
    ),
    "segmentation": Case("BeitForSemanticSegmentation", _SEGMENT, {"labels": LABEL_MAP}),
    "segmentation, two auxiliary convolutions": Case(
        "BeitForSemanticSegmentation",
        _SEGMENT | {"auxiliary_num_convs": 2, "auxiliary_loss_weight": 0.7},
        {"labels": np.where(LABEL_MAP == 255, 0, LABEL_MAP)},
    ),
    "segmentation, no auxiliary head, other size": Case(
        "BeitForSemanticSegmentation", _SEGMENT | {"use_auxiliary_head": False}, {}, _OTHER_SIZE
    ),
    "backbone": Case("BeitBackbone", TABLES | {"out_features": ["stem", "stage2", "stage4"]}),
    "backbone, tokens": Case("BeitBackbone", TABLES | {"reshape_hidden_states": False}),
    "backbone, pyramid": Case("BeitBackbone", _FOUR | {"add_fpn": True}, {}, _OTHER_SIZE),
}


def write_folder(folder: Path, case: Case) -> None:
    """A folder of transformers with random weights that depend on the names of the tensors only."""
    model = getattr(ours, case.name)(ours.BeitConfig(**TINY | case.config))
    model.save_pretrained(folder)
    rng = np.random.default_rng(1)
    file = folder / "model.safetensors"
    state = {}
    for name, array in sorted(read(file).tree.items()):
        values = 0.4 * rng.standard_normal(array.shape)
        if name.endswith(("norm.weight", "running_var", "lambda_1", "lambda_2")):
            values = 1 + np.abs(values)
        state[name] = np.asarray(values, array.dtype)
    write(file, state, metadata={"format": "pt"})


def flat(outputs: Any) -> dict[str, np.ndarray]:
    """The outputs as arrays; those of a tuple by `name.number`."""
    found = {}
    for name, value in outputs.items():
        parts = (
            {f"{name}.{k}": part for k, part in enumerate(value)}
            if isinstance(value, tuple | list)
            else {name: value}
        )
        found |= {key: np.asarray(part.detach().numpy()) for key, part in parts.items()}
    return found


def theirs(folder: Path, case: Case) -> dict[str, np.ndarray]:
    """What the installed transformers returns."""
    import torch
    import transformers

    model = getattr(transformers, case.name).from_pretrained(folder, attn_implementation="eager")
    arguments = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in case.arguments.items()
    }
    with torch.no_grad():
        return flat(
            model(
                torch.from_numpy(case.pixels), output_hidden_states=True, output_attentions=True, **arguments
            )
        )


def store() -> None:
    """Write `outputs.npz` with the installed transformers."""
    import tempfile

    stored = {}
    for title, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            write_folder(Path(folder), case)
            stored |= {f"{title}/{name}": value for name, value in theirs(Path(folder), case).items()}
    np.savez_compressed(STORED, **stored)
