"""Teachers of VQ-KD from the files of each publisher, compared with a NumPy forward."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beit.checkpoint.files import write
from beit.containers.errors import CheckpointError
from beit.data.batch_transforms import normalize
from beit.models.teachers import load_teacher
from tests.models import teacher_numpy as reference
from tests.tiny import randomize, tiny_beit

HEADS = 2


def images(side=12):
    return np.random.default_rng(0).random((2, 3, side, side)).astype("float32")


def saved(tmp_path, tree):
    write(tmp_path / "teacher.pdparams", tree)
    return tmp_path / "teacher.pdparams"


CLIP_FORMS = {
    "the whole of OpenAI's CLIP": lambda s: s | {"text_projection": np.ones((2, 2), np.float32)},
    "the vision transformer alone": lambda s: {
        name.removeprefix("visual."): array for name, array in s.items()
    },
    "half precision under a wrapper": lambda s: {"state_dict": s},
    "transformers": reference.clip_transformers,
}
DINO_FORMS = {
    "the backbone": lambda s: s,
    "a training checkpoint": lambda s: {
        "student": {f"module.backbone.{name}": 0 * array for name, array in s.items()},
        "teacher": {f"backbone.{name}": array for name, array in s.items()}
        | {"head.mlp.0.weight": np.ones((2, 2), np.float32)},
        "epoch": 3,
    },
    "transformers": reference.dino_transformers,
}


@pytest.mark.parametrize("form", CLIP_FORMS)
def test_clip_features(tmp_path, form):
    state = reference.clip_state(np.random.default_rng(1))
    teacher = load_teacher("clip", saved(tmp_path, CLIP_FORMS[form](state)), num_heads=HEADS)
    found = teacher(paddle.to_tensor(images()))
    assert teacher.dim == 6
    np.testing.assert_allclose(found.numpy(), reference.clip(state, images(), HEADS), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", DINO_FORMS)
def test_dino_features(tmp_path, form):
    state = reference.dino_state(np.random.default_rng(2))
    teacher = load_teacher("dino", saved(tmp_path, DINO_FORMS[form](state)), num_heads=HEADS)
    found = teacher(paddle.to_tensor(images()))
    assert teacher.dim == 16
    np.testing.assert_allclose(found.numpy(), reference.dino(state, images(), HEADS), atol=1e-5, rtol=1e-5)


def own_classifier(**options):
    positions = {"use_abs_pos_emb": True, "use_rel_pos_bias": False, "init_values": 0.0}
    return randomize(tiny_beit(width=16, heads=HEADS, **positions | options), scale=0.3)


def test_a_classifier_of_this_package_can_be_a_teacher(tmp_path):
    model = own_classifier()
    path = saved(tmp_path, {name: tensor.numpy() for name, tensor in model.state_dict().items()})
    teacher = load_teacher("beit", path, num_heads=HEADS)
    pixels = paddle.to_tensor(np.round(255 * images()).astype("uint8"))
    normalized = normalize(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    tokens = model.run_blocks(model.embed(normalized)).last
    found = teacher(pixels.astype("float32") / 255.0)
    np.testing.assert_allclose(found.numpy(), model.fc_norm(tokens[:, 1:]).numpy(), atol=1e-5)
    other = own_classifier(use_rel_pos_bias=True)
    path = saved(tmp_path, {name: tensor.numpy() for name, tensor in other.state_dict().items()})
    with pytest.raises(CheckpointError, match="not a plain vision transformer"):
        load_teacher("beit", path, num_heads=HEADS)


def test_half_precision_files_are_read_as_float32(tmp_path):
    state = {
        name: array.astype(np.float16)
        for name, array in reference.clip_state(np.random.default_rng(1)).items()
    }
    teacher = load_teacher("clip", saved(tmp_path, state), num_heads=HEADS)
    found = teacher(paddle.to_tensor(images()))
    np.testing.assert_allclose(found.numpy(), reference.clip(state, images(), HEADS), atol=1e-5, rtol=1e-5)


def test_positions_follow_the_image_size(tmp_path):
    state = reference.dino_state(np.random.default_rng(2))
    teacher = load_teacher("dino", saved(tmp_path, state), num_heads=HEADS, image_size=(16, 20))
    assert teacher(paddle.zeros([1, 3, 16, 20])).shape == [1, 20, 16]
    np.testing.assert_array_equal(teacher.pos_embed[:, :1].numpy(), state["pos_embed"][:, :1])


def test_a_teacher_is_frozen(tmp_path):
    teacher = load_teacher(
        "dino", saved(tmp_path, reference.dino_state(np.random.default_rng(2))), num_heads=HEADS
    )
    assert not teacher.training
    assert all(parameter.stop_gradient for parameter in teacher.parameters())
    assert teacher(paddle.to_tensor(images())).stop_gradient


def test_a_key_chooses_among_the_teachers_of_a_file(tmp_path):
    states = {name: reference.dino_state(np.random.default_rng(k)) for k, name in enumerate(("a", "b"))}
    path = saved(tmp_path, states)
    with pytest.raises(CheckpointError, match=r"choose one by .*TOKENIZER\.TEACHER_PRETRAINED_KEY"):
        load_teacher("dino", path, num_heads=HEADS)
    for name, state in states.items():
        teacher = load_teacher("dino", path, key=name, num_heads=HEADS)
        np.testing.assert_array_equal(teacher.pos_embed.numpy(), state["pos_embed"])


def test_other_files_are_refused(tmp_path):
    dino = reference.dino_state(np.random.default_rng(2))
    with pytest.raises(CheckpointError, match=r"no CLIP vision transformer .*holds a DINO model"):
        load_teacher("clip", saved(tmp_path, dino))
    with pytest.raises(CheckpointError, match="first tensors: fc.weight"):
        load_teacher("dino", saved(tmp_path, {"fc.weight": np.ones((2, 2), np.float32)}))
    with pytest.raises(CheckpointError, match=r"fc\.weight is not a tensor of a DINO"):
        load_teacher("dino", saved(tmp_path, dino | {"fc.weight": np.ones((2, 2), np.float32)}))
    del dino["norm.bias"]
    with pytest.raises(ValueError, match=r"incomplete: missing \['norm\.bias'\]"):
        load_teacher("dino", saved(tmp_path, dino), num_heads=HEADS)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_teacher("dino", tmp_path / "none.pth")
