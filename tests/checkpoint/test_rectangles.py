"""Images that are not square: positions give the number of patches, the files beside the weights the sides."""

from __future__ import annotations

import json

import numpy as np
import pytest

from beit.beit import Beit
from beit.checkpoint.convert import convert
from beit.checkpoint.files import read, write
from beit.checkpoint.open import open_checkpoint
from beit.checkpoint.publishers import PUBLISHERS
from beit.models.load import load_pretrained
from beit.positions import (
    index_grid,
    num_table_rows,
    relative_position_index,
    resize_absolute_position,
    resize_relative_position_bias,
)
from tests.checkpoint import publishers

GRID, SIZE = (3, 5), (12, 20)
TABLE = "blocks.0.attn.relative_position_bias_table"


def rectangular(*, positions=False):
    """A classifier of images of 12 x 20 pixels in unilm's names, without index buffers."""
    rng = np.random.default_rng(0)
    state = publishers.unilm_classifier(rng, positions=positions, tables=not positions)
    for name in state:
        if name.endswith("bias_table"):
            state[name] = publishers.draw(rng, num_table_rows(GRID), 3)
    if positions:
        state["pos_embed"] = publishers.draw(rng, 1, GRID[0] * GRID[1] + 1, 24)
    return state


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "beit_base.pdparams"
    write(path, {"model": rectangular()})
    path.with_suffix(".pretrained_cfg.json").write_text('{"pretrained_cfg": {"input_size": [3, 12, 20]}}')
    return path


def target(folder, form, suffix):
    return (
        folder / form
        if suffix == "folder" and form in ("timm", "huggingface")
        else folder / f"{form}.{suffix}"
    )


@pytest.mark.parametrize("form", [form for form in PUBLISHERS if form != "openai"])
@pytest.mark.parametrize("suffix", ["pdparams", "safetensors", "folder"])
def test_every_form_keeps_the_size(source, tmp_path, form, suffix):
    if suffix == "folder" and form not in ("timm", "huggingface"):
        suffix = "pdparams"
    there, back = target(tmp_path, form, suffix), tmp_path / "back.pdparams"
    convert(source, there, publisher=form)
    state, info = open_checkpoint(there)
    assert (info.publisher, info.architecture.grid_size) == (form, GRID)
    assert (info.architecture.image_size, info.preprocessing.image_size) == (SIZE, SIZE)
    convert(there, back)
    np.testing.assert_equal(dict(open_checkpoint(back).state), dict(open_checkpoint(source).state))
    assert open_checkpoint(back).info.architecture.image_size == SIZE


def test_libraries_find_the_size_where_they_look(source, tmp_path):
    convert(source, tmp_path / "timm", publisher="timm")
    config = json.loads((tmp_path / "timm/config.json").read_text())
    assert (config["model_args"]["img_size"], config["pretrained_cfg"]["input_size"]) == (
        [12, 20],
        [3, 12, 20],
    )
    convert(source, tmp_path / "hf", publisher="huggingface")
    assert json.loads((tmp_path / "hf/config.json").read_text())["image_size"] == [12, 20]


def test_index_buffers_tell_the_grid(source, tmp_path):
    convert(source, tmp_path / "u.pdparams", publisher="unilm")
    (tmp_path / "u.pretrained_cfg.json").unlink()
    index = read(tmp_path / "u.pdparams").tree["model"]["blocks.1.attn.relative_position_index"]
    np.testing.assert_array_equal(index, relative_position_index(GRID))
    assert open_checkpoint(tmp_path / "u.pdparams").info.architecture.grid_size == GRID


@pytest.mark.parametrize("grid", [(3, 5), (5, 3), (1, 4), (4, 4), (2, 1), (1, 1)])
def test_grid_of_an_index(grid):
    found = index_grid(relative_position_index(grid))
    np.testing.assert_array_equal(relative_position_index(found), relative_position_index(grid))


def test_what_no_file_states_is_not_guessed(tmp_path):
    path = tmp_path / "beit_base.pdparams"
    write(path, {"model": rectangular()})
    assert open_checkpoint(path).info.architecture.image_size is None
    with pytest.raises(ValueError, match=r"input_size.*beit_base\.pretrained_cfg\.json"):
        convert(path, tmp_path / "timm", publisher="timm")
    assert not (tmp_path / "timm").exists()
    convert(path, tmp_path / "same.pdparams")
    np.testing.assert_array_equal(
        open_checkpoint(tmp_path / "same.pdparams").state[TABLE], rectangular()[TABLE]
    )


@pytest.mark.parametrize("positions", [False, True])
def test_a_model_of_the_same_number_of_patches_in_another_grid(tmp_path, positions):
    """The shapes are equal, the meaning of the rows is not."""
    path = tmp_path / "beit_base.pdparams"
    state = rectangular(positions=positions)
    write(path, {"model": state})
    path.with_suffix(".pretrained_cfg.json").write_text('{"pretrained_cfg": {"input_size": [3, 12, 20]}}')
    options = {"patch_size": 4, "num_classes": 5, "embed_dim": 24, "depth": 2, "num_heads": 3}
    kinds = {"use_abs_pos_emb": positions, "use_rel_pos_bias": not positions}
    name = "pos_embed" if positions else TABLE
    for size, grid in ((SIZE, GRID), (SIZE[::-1], GRID[::-1])):
        model = Beit(image_size=size, **options, **kinds)
        report = load_pretrained(model, path)
        expected = state[name]
        if grid != GRID:
            resize = resize_absolute_position if positions else resize_relative_position_bias
            expected = resize(expected, GRID, grid)
            assert name in report.resized
        np.testing.assert_array_equal(model.state_dict()[name].numpy(), expected)
