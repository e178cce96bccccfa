"""The models against outputs of transformers: those stored, and those of the installed release."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beit import transformers as ours
from tests.transformers.cases import CASES, MASK, STORED, TABLES, TINY, Case, flat, theirs, write_folder

TOLERANCE = 1e-5  # relative to the largest value


def outputs_of(model, case, **more):
    arguments = {
        name: paddle.to_tensor(value) if isinstance(value, np.ndarray) else value
        for name, value in case.arguments.items()
    }
    with paddle.no_grad():
        return model(paddle.to_tensor(case.pixels), **arguments, **more)


def compare(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype == np.float32, name
        assert found[name].shape == value.shape, name
        difference = np.abs(found[name] - value).max() / max(1.0, np.abs(value).max())
        assert difference < TOLERANCE, (name, difference)


def load(folder, case):
    return getattr(ours, case.name).from_pretrained(folder)


@pytest.mark.parametrize("title", CASES)
def test_outputs_equal_the_stored_ones_of_transformers(title, tmp_path):
    case = CASES[title]
    write_folder(tmp_path, case)
    with np.load(STORED) as file:
        names = [name for name in file.files if name.startswith(f"{title}/")]
        expected = {name.removeprefix(f"{title}/"): file[name] for name in names}
    assert expected
    model = load(tmp_path, case)
    compare(flat(outputs_of(model, case, output_hidden_states=True, output_attentions=True)), expected)


@pytest.mark.peers
@pytest.mark.parametrize("title", CASES)
def test_outputs_equal_those_of_the_installed_transformers(title, tmp_path):
    pytest.importorskip("transformers")
    case = CASES[title]
    write_folder(tmp_path / "a", case)
    expected = theirs(tmp_path / "a", case)
    model = load(tmp_path / "a", case)
    compare(flat(outputs_of(model, case, output_hidden_states=True, output_attentions=True)), expected)

    model.save_pretrained(tmp_path / "b")  # and transformers reads what is written
    compare(theirs(tmp_path / "b", case), expected)


@pytest.mark.peers
@pytest.mark.parametrize("title", ["masked", "classes", "several classes", "segmentation"])
def test_a_training_step_equals_that_of_the_installed_transformers(title, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    case = Case(CASES[title].name, CASES[title].config | {"drop_path_rate": 0.0}, CASES[title].arguments)
    write_folder(tmp_path / "start", case)
    theirs = getattr(transformers, case.name).from_pretrained(tmp_path / "start").train()
    arguments = {name: torch.from_numpy(value) for name, value in case.arguments.items()}
    optimizer = torch.optim.SGD(theirs.parameters(), 0.1)
    theirs(torch.from_numpy(case.pixels), **arguments).loss.backward()
    optimizer.step()
    theirs.save_pretrained(tmp_path / "trained")

    model = load(tmp_path / "start", case)
    model.train()
    arguments = {name: paddle.to_tensor(value) for name, value in case.arguments.items()}
    optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
    model(paddle.to_tensor(case.pixels), **arguments).loss.backward()
    optimizer.step()
    before, expected = (
        load(tmp_path / "start", case).state_dict(),
        load(tmp_path / "trained", case).state_dict(),
    )
    moved = 0
    for name, tensor in model.state_dict().items():
        if not name.endswith("_variance"):  # biased in Paddle, unbiased in PyTorch
            np.testing.assert_allclose(tensor.numpy(), expected[name].numpy(), atol=1e-5, err_msg=name)
        moved += int(np.abs(expected[name].numpy() - before[name].numpy()).max() > 1e-4)
    assert moved > 20


@pytest.mark.parametrize("title", ["model, tables", "masked", "classes", "segmentation", "backbone"])
def test_outputs_are_attributes_keys_and_a_tuple(title):
    case = CASES[title]
    model = getattr(ours, case.name)(ours.BeitConfig(**TINY | case.config))
    model.eval()
    plain = outputs_of(model, case)
    assert "hidden_states" not in plain and plain.hidden_states is None and plain.attentions is None
    with pytest.raises(AttributeError, match="has no 'logit'; it has"):
        _ = plain.logit
    full = outputs_of(model, case, output_hidden_states=True, output_attentions=True)
    assert len(full.hidden_states) == TINY["num_hidden_layers"] + 1
    assert len(full.attentions) == TINY["num_hidden_layers"]
    values = outputs_of(model, case, output_hidden_states=True, output_attentions=True, return_dict=False)
    assert isinstance(values, tuple) and len(values) == len(full)
    for number, (name, value) in enumerate(full.items()):
        assert full[number] is value and full[name] is value and getattr(full, name) is value
    assert full[:2] == (full[0], full[1])
    first = full.to_tuple()[0]
    if isinstance(first, paddle.Tensor):
        np.testing.assert_array_equal(values[0].numpy(), first.numpy())


def test_the_config_gives_the_defaults_of_the_arguments():
    config = ours.BeitConfig(**TINY, output_hidden_states=True, output_attentions=True, return_dict=False)
    case = Case("BeitModel", {})
    assert len(outputs_of(ours.BeitModel(config), case)) == 4
    assert len(outputs_of(ours.BeitModel(config), case, output_attentions=False)) == 3


def test_masked_patches_do_not_show():
    case = CASES["masked"]
    model = ours.BeitForMaskedImageModeling(ours.BeitConfig(**TINY | case.config))
    model.eval()
    images = paddle.to_tensor(case.pixels)
    hidden = images.clone()
    hidden[0, :, :4, :4] = 7.0  # patch 0 of image 0 is masked
    shown = images.clone()
    shown[0, :, :4, 4:] = 7.0  # patch 1 is not
    mask = paddle.to_tensor(MASK)
    with paddle.no_grad():
        logits, same, other = (model(x, bool_masked_pos=mask).logits.numpy() for x in (images, hidden, shown))
        without = model(images).logits.numpy()
    np.testing.assert_array_equal(logits, same)
    assert np.abs(logits - other).max() > 0 and np.abs(logits - without).max() > 0
    np.testing.assert_array_equal(
        model(images, bool_masked_pos=paddle.to_tensor(MASK.astype(np.int64))).logits.numpy(), logits
    )


def test_initial_values_are_those_of_transformers():
    config = ours.BeitConfig(
        **TINY | {"hidden_size": 96, "initializer_range": 0.5, "use_mask_token": True},
        use_absolute_position_embeddings=True,
        use_relative_position_bias=True,
        layer_scale_init_value=0.3,
    )
    model = ours.BeitForSemanticSegmentation(
        ours.BeitConfig.from_dict(config.to_dict(), out_indices=[1, 2, 3, 4])
    )
    ones = ("norm1.weight", "norm2.weight", "bn.weight", "fpn1.1.weight")
    for name, parameter in model.named_parameters():
        if not parameter.trainable:  # running statistics
            continue
        values = parameter.numpy()
        if name.endswith(ones):
            assert (values == 1).all(), name
        elif "gamma" in name:
            np.testing.assert_allclose(values, 0.3)
        elif name.endswith(("bias", "token", "pos_embed", "_table")):
            assert (values == 0).all(), name
        else:
            assert abs(values.std() - 0.5) < 0.08, name


def test_gradients_reach_every_parameter_that_is_used():
    case = CASES["segmentation"]
    model = ours.BeitForSemanticSegmentation(ours.BeitConfig(**TINY | case.config))
    labels = paddle.to_tensor(case.arguments["labels"])
    model(paddle.to_tensor(case.pixels), labels=labels).loss.backward()
    without = {
        name for name, parameter in model.named_parameters() if parameter.trainable and parameter.grad is None
    }
    assert without and all(name.startswith("beit.encoder.blocks.3.") for name in without)
    assert {id(p) for p in model.base_model.parameters()} < {id(p) for p in model.parameters()}


def test_problem_type_is_found_and_kept():
    labels = {
        "single_label_classification": np.array([0, 1]),
        "multi_label_classification": np.eye(3, dtype=np.float32)[:2],
    }
    for kind, values in labels.items():
        model = ours.BeitForImageClassification(ours.BeitConfig(**TINY, num_labels=3))
        model(paddle.to_tensor(CASES["classes"].pixels), labels=paddle.to_tensor(values))
        assert model.config.problem_type == kind


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("BeitModel", {"hidden_act": "mish"}, "hidden_act = 'mish'; known: gelu"),
        ("BeitForMaskedImageModeling", {"use_mean_pooling": False}, "has two norms before its head"),
        ("BeitForSemanticSegmentation", {}, r"out_indices = \[4\]; semantic segmentation takes four"),
        (
            "BeitForSemanticSegmentation",
            {"out_indices": [1, 2, 3, 4], "auxiliary_concat_input": True},
            "does not concatenate its input",
        ),
        (
            "BeitForSemanticSegmentation",
            {"out_indices": [1, 2, 3, 4], "auxiliary_num_convs": 0},
            "auxiliary_num_convs >= 1",
        ),
    ],
)
def test_a_config_that_no_model_has_is_refused(name, config, message):
    with pytest.raises(ValueError, match=message):
        getattr(ours, name)(ours.BeitConfig(**TINY | config))


def test_wrong_arguments_are_refused():
    images = paddle.to_tensor(CASES["classes"].pixels)
    model = ours.BeitModel(ours.BeitConfig(**TINY))
    with pytest.raises(ValueError, match="pixel_values have 1 channels, the model num_channels = 3"):
        model(images[:, :1])
    with pytest.raises(ValueError, match="set use_mask_token=True"):
        model(images, bool_masked_pos=paddle.to_tensor(MASK))
    masked = ours.BeitForMaskedImageModeling(ours.BeitConfig(**TINY, use_mask_token=True))
    with pytest.raises(ValueError, match=r"expected bool \[batch, patches\] = \[2, 4\]"):
        masked(images, bool_masked_pos=paddle.to_tensor(MASK[:, :2]))
    with pytest.raises(ValueError, match="pass bool_masked_pos too"):
        masked(images, labels=paddle.to_tensor([1]))
    single = ours.BeitForSemanticSegmentation(
        ours.BeitConfig(**TINY | TABLES, num_labels=1, out_indices=[1, 2, 3, 4])
    )
    with pytest.raises(ValueError, match="num_labels > 1"):
        single(images, labels=paddle.zeros([2, 8, 8], "int64"))
    pyramid = ours.BeitBackbone(ours.BeitConfig(**TINY, out_indices=[1, 2, 3, 4], add_fpn=True))
    for model in (single, pyramid):
        with pytest.raises(
            ValueError, match="images of 4x8 pixels are too small for the pyramid: pad them to 8"
        ):
            model(images[:, :, :4])


@pytest.mark.parametrize("size", [(3, 8), (8, 3)])
def test_images_without_a_whole_patch_are_refused(size):
    """The mean of no patches is NaN."""
    model = ours.BeitForImageClassification(ours.BeitConfig(**TINY))
    with pytest.raises(
        ValueError, match=rf"pixel_values of {size[0]}x{size[1]} pixels are smaller than a patch, 4x4"
    ):
        model(paddle.zeros([1, 3, *size]))
