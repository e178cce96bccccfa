"""Where a file holds the weights: under which keys, with which prefix; and the choice among several."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beit.checkpoint.files import write
from beit.checkpoint.open import open_checkpoint
from beit.containers.errors import CheckpointError
from beit.flags import config_from_arguments
from beit.models.load import load_pretrained
from beit.tasks import TASKS
from beit.tools.convert import main as convert
from tests.checkpoint import publishers
from tests.tiny import tiny_beit, tiny_config

RNG = np.random.default_rng(0)
UNILM = publishers.unilm_classifier(RNG)
OTHER = publishers.unilm_classifier(RNG)
FORMS = {
    "unilm": UNILM,
    "paddlevit": publishers.paddlevit(UNILM),
    "openmmlab": publishers.openmmlab(UNILM)["state_dict"],
    "transformers": publishers.huggingface(UNILM),
    "transformers 5": publishers.huggingface(UNILM, runtime=True),
    "passl": publishers.passl(UNILM),
}
PREFIXES = ("module.", "model.", "backbone.", "encoder.", "net.", "_orig_mod.", "module.model.", "a.b.c.")


def under(prefix, state):
    return {prefix + name: array for name, array in state.items()}


def token(tree, **options):
    """The class token tells which state was taken."""
    return open_checkpoint(tree, **options).state["cls_token"]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("form", FORMS)
def test_a_prefix_of_all_names_is_stripped_and_named(form, prefix):
    expected, _ = open_checkpoint(FORMS[form])
    state, info = open_checkpoint({"state_dict": under(prefix, FORMS[form]), "epoch": 3})
    assert state.keys() == expected.keys() and info.unknown == ()
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array)
    report = load_pretrained(tiny_beit(), {"model": under(prefix, FORMS[form])})
    assert f"the prefix {prefix} of the tensor names is stripped" in str(report)
    assert "prefix" not in str(load_pretrained(tiny_beit(), FORMS[form]))


@pytest.mark.parametrize("kind", ["unilm_mim", "unilm_vqkd", "unilm_segmentation", "dalle"])
def test_the_prefix_of_other_models_is_stripped(kind):
    tree = getattr(publishers, kind)(np.random.default_rng(1))
    expected, found = open_checkpoint(tree)
    state, info = open_checkpoint(under("model.", tree))
    assert state.keys() == expected.keys() and info.kind == found.kind


@pytest.mark.parametrize("state", [UNILM, publishers.with_index(UNILM)])
def test_the_key_bias_of_a_pickled_timm_model_is_left_out(state):
    tree = state | {f"blocks.{i}.attn.k_bias": np.zeros(24, np.float32) for i in range(2)}
    report = load_pretrained(tiny_beit(), under("module.", tree))
    assert not report.new and "zero bias of the keys" in report.dropped["blocks.1.attn.k_bias"]


def test_tensors_beside_the_prefix_are_left_out_with_the_reason():
    tree = under("model.", UNILM) | {"criterion.weight": np.ones(5), "mean": np.ones(3)}
    report = load_pretrained(tiny_beit(), {"state_dict": tree})
    assert report.dropped == dict.fromkeys(["criterion.weight", "mean"], "without the prefix model.")
    assert not report.new


@pytest.mark.parametrize("prefix", ["", "model.", "module.net."])
@pytest.mark.parametrize("form", ["unilm", "paddlevit"])
def test_a_head_beside_the_encoder_belongs_to_the_model(form, prefix):
    heads = {name: array for name, array in FORMS[form].items() if name.startswith("head.")}
    encoder = {name: array for name, array in FORMS[form].items() if name not in heads}
    tree = under(prefix + "backbone.", encoder) | under(prefix, heads) | {"loss.weight": np.ones(5)}
    report = load_pretrained(tiny_beit(), tree)
    assert not report.new
    assert [name for name in report.dropped if not name.endswith("_index")] == ["loss.weight"]


WRAPPED = {
    "one key": {"net": UNILM, "epoch": 3},
    "another": {"model_state_dict": UNILM, "optimizer_state_dict": {"state": {0: {"exp_avg": np.ones(3)}}}},
    "nested": {"checkpoint": {"state_dict": UNILM, "epoch": 3}},
    "in a list": {"models": [{"weights": UNILM}]},
    "Lightning": {
        "state_dict": under("model.", UNILM),
        "hyper_parameters": {"lr": 0.1},
        "callbacks": {"ModelCheckpoint{}": {"best_model_score": np.ones(())}},
        "optimizer_states": [{"state": {0: {"exp_avg": np.ones((1, 1, 24))}}, "param_groups": [{"lr": 0.1}]}],
    },
    "DeepSpeed": {"module": UNILM, "buffer_names": ["a"], "param_shapes": [{"cls_token": [1, 1, 24]}], "dp_world_size": 8},
    "mmengine": {"meta": {"epoch": 1}, "state_dict": publishers.openmmlab(UNILM)["state_dict"], "message_hub": {}},
}  # fmt: skip


@pytest.mark.parametrize("case", WRAPPED)
def test_a_whole_state_dict_is_found_under_any_key(case):
    report = load_pretrained(tiny_beit(), WRAPPED[case])
    assert not report.new
    np.testing.assert_array_equal(token(WRAPPED[case]), UNILM["cls_token"])
    assert open_checkpoint({"checkpoint": {"state_dict": UNILM}}).info.wrapper == "checkpoint.state_dict"


SEVERAL = {
    "keys": {"student": UNILM, "teacher": OTHER, "epoch": 3},
    "prefixes": {"state_dict": under("student.", UNILM) | under("teacher.net.", OTHER)},
    "nested": {"states": {"student": {"model": UNILM}, "teacher": {"model": OTHER}}},
}


@pytest.mark.parametrize("case", SEVERAL)
def test_of_several_the_key_chooses_one(case):
    for key, expected in (("student", UNILM), ("teacher", OTHER)):
        np.testing.assert_array_equal(token(SEVERAL[case], key=key), expected["cls_token"])
    for options, words in (
        ({}, "choose one by key=NAME .*MODEL.PRETRAINED_KEY NAME; .*convert --key NAME"),
        ({"key": "ema"}, "none of them called 'ema'"),
    ):
        with pytest.raises(CheckpointError, match=rf"2 state dicts: .*student.*, .*teacher.*{words}"):
            open_checkpoint(SEVERAL[case], **options)


def test_full_names_and_parts_of_names_choose():
    tree = {"a": {"ema": UNILM}, "b": {"ema": OTHER}}
    np.testing.assert_array_equal(token(tree, key="b.ema"), OTHER["cls_token"])
    np.testing.assert_array_equal(token(tree, key="b"), OTHER["cls_token"])
    with pytest.raises(CheckpointError, match="2 state dicts: a.ema, b.ema; several of them called 'ema'"):
        open_checkpoint(tree, key="ema")
    with pytest.raises(ValueError, match="key='b' and ema=True both choose"):
        open_checkpoint(tree, key="b", ema=True)


def test_the_official_default_stays_and_the_others_are_named():
    tree = {"model": UNILM, "ema": OTHER, "callbacks": {"model": OTHER}}
    report = load_pretrained(tiny_beit(), tree)
    assert report.info.wrapper == "model"
    assert "also holds the weights ema, callbacks.model: choose them by key=NAME" in str(report)
    np.testing.assert_array_equal(token(tree, key="ema"), OTHER["cls_token"])
    with pytest.raises(
        CheckpointError, match="no averaged weights .*3 state dicts: model, ema, callbacks.model"
    ):
        open_checkpoint(tree, ema=True)
    info = open_checkpoint({"model_ema": under("module.", UNILM)}).info
    assert info.ema and info.wrapper == "model_ema"


REFUSED = {
    "MiDaS or DPT": under("pretrained.model.", UNILM) | {"scratch.layer1_rn.weight": np.ones(3)},
    "CAE": under("encoder.", UNILM) | {"regressor_and_decoder.norm.weight": np.ones(3)},
    "Data2VecVision": under("model.data2vec_vision.", publishers.huggingface(UNILM)),
    "plain vision transformer of transformers": {
        "deit.embeddings.cls_token": np.ones((1, 1, 24)),
        "deit.encoder.layer.0.attention.attention.key.bias": np.ones(24),
    },
    "a ResNet": {"model.layer1.0.conv1.weight": np.ones((3, 3))},
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_prefix_makes_no_beit_of_another_model(words):
    with pytest.raises(CheckpointError, match=f"not a BEiT checkpoint: .*{words}"):
        open_checkpoint({"state_dict": REFUSED[words]})


def test_deep_and_wide_trees_end():
    tree: dict = {"w": np.ones(1)}
    for _ in range(200):
        tree = {"inner": tree}
    with pytest.raises(CheckpointError, match="no model weights"):
        open_checkpoint(tree)
    names = {"a." * 200 + str(k): np.ones(1) for k in range(2000)}
    with pytest.raises(CheckpointError, match="no known format"):
        open_checkpoint({"model": names})


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_tensors_of_paddle_are_taken(dtype):
    tensors = {name: paddle.to_tensor(array).astype(dtype) for name, array in UNILM.items()}
    model = tiny_beit()
    load_pretrained(model, {"net": tensors, "step": paddle.to_tensor(3)})
    np.testing.assert_array_equal(
        model.cls_token.numpy(), tensors["cls_token"].astype("float32").numpy().astype(np.float32)
    )


class TorchLike:
    """The methods of a torch tensor that are used, with bfloat16 as PyTorch has it: not as NumPy array."""

    def __init__(self, array, dtype):
        self.array, self.dtype = array, dtype

    def detach(self):
        return self

    cpu = detach

    def float(self):
        return TorchLike(self.array, "torch.float32")

    def numpy(self):
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


@pytest.mark.parametrize("dtype", ["torch.float32", "torch.bfloat16"])
def test_tensors_of_pytorch_are_taken(dtype):
    tree = {"model": {name: TorchLike(array, dtype) for name, array in UNILM.items()}}
    np.testing.assert_array_equal(token(tree), UNILM["cls_token"])


def test_the_config_and_the_command_line_choose(tmp_path):
    file = tmp_path / "w.pdparams"
    write(file, {"student": publishers.paddlevit(UNILM), "teacher": publishers.paddlevit(OTHER)})
    sizes = {
        "DATA__IMAGE_SIZE": 12,
        "MODEL__PATCH_SIZE": 4,
        "MODEL__NUM_CLASSES": 5,
        "MODEL__PRETRAINED": str(file),
    }
    for key, expected in (("student", UNILM), ("teacher", OTHER)):
        task = TASKS["classify"](tiny_config(**sizes, MODEL__PRETRAINED_KEY=key))
        task.load(str(file))
        np.testing.assert_array_equal(task.model.cls_token.numpy(), expected["cls_token"])
        convert([str(file), str(tmp_path / f"{key}.pdparams"), "--key", key])
        np.testing.assert_array_equal(token(tmp_path / f"{key}.pdparams"), expected["cls_token"])


def test_weights_named_by_a_flag_do_not_take_the_key_of_the_config(tmp_path):
    (tmp_path / "c.yaml").write_text("MODEL:\n  PRETRAINED: a.pth\n  PRETRAINED_KEY: ema\n", encoding="utf-8")
    assert config_from_arguments([f"-cfg={tmp_path}/c.yaml"]).MODEL.PRETRAINED_KEY == "ema"
    given = [f"-cfg={tmp_path}/c.yaml", "-pretrained=b.pth"]
    assert config_from_arguments(given).MODEL.PRETRAINED_KEY == ""
    assert (
        config_from_arguments([*given, "-opts", "MODEL.PRETRAINED_KEY", "net"]).MODEL.PRETRAINED_KEY == "net"
    )
