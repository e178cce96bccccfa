"""The classifier as a static graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beit.checkpoint.files import read
from beit.run import run
from tests.stories import losses, tiny_config, write_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    "options", [{}, {"TRAIN__ACCUM_ITER": 2, "TRAIN__MIXUP_ALPHA": 0.0, "TRAIN__CUTMIX_ALPHA": 0.0}]
)
def test_a_static_graph_trains_to_the_same_weights(
    data: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """With stochastic depth too, whose random numbers come in the same order."""
    found = {}
    for is_static in (False, True):
        output = tmp_path / str(is_static)
        metrics = run(
            tiny_config(data, output, TRAIN__STATIC_GRAPH=is_static, MODEL__DROPPATH=0.4, **options)
        )
        found[is_static] = (metrics["loss"], losses(output), dict(read(output / "model.pdparams").tree))
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-5)
    np.testing.assert_allclose(found[True][1], found[False][1], rtol=1e-5)
    assert found[True][2].keys() == found[False][2].keys()
    for name, expected in found[False][2].items():
        np.testing.assert_allclose(found[True][2][name], expected, rtol=1e-4, atol=1e-5, err_msg=name)
