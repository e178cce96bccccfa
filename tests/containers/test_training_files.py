"""Objects beside the weights of training files: the weights are read, nothing of the objects is imported or called."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import enum
import pathlib
import pickle
import random
import sys
import types

import numpy as np
import pytest

from beit.checkpoint.files import read, read_checkpoint, write_checkpoint
from beit.checkpoint.open import open_checkpoint
from beit.containers import paddle_files
from beit.containers.errors import CheckpointError
from tests.checkpoint import publishers
from tests.containers.container_writers import Call, Name, dumps, module, tensor, torch_legacy, torch_zip

WEIGHTS = {"a.weight": np.arange(6, dtype="f4").reshape(2, 3), "a.bias": np.ones(2)}
STORED = {name: tensor(array, name) for name, array in WEIGHTS.items()}


class History:
    """As mmengine.logging.HistoryBuffer: pickles of protocol 2 name its methods by getattr."""

    def __init__(self):
        self.log = np.ones(3)

    def mean(self):
        return self.log.mean()

    def __getstate__(self):
        return {"log": self.log, "statistics_methods": {"mean": History.mean}}


class Attributes(dict):
    """As the hyperparameters of Lightning, the configs of yacs and mmengine: a dictionary with attributes."""


class Stage(enum.Enum):
    TRAIN = "train"


Address = collections.namedtuple("Address", "numel start")  # as the fragments of DeepSpeed


@pytest.fixture
def objects(monkeypatch):
    """The classes above under the name of a package that is not installed any more when the file is read."""
    package = types.ModuleType("publisher")
    monkeypatch.setitem(sys.modules, "publisher", package)
    for cls in (History, Attributes, Stage, Address):
        setattr(package, cls.__name__, cls)
        monkeypatch.setattr(cls, "__module__", "publisher")
    settings = Attributes(lr=0.1)
    settings.frozen = True
    yield {
        "message_hub": {"loss": History()},
        "hyper_parameters": settings,
        "stage": Stage.TRAIN,
        "slices": {"a": Address(3, 0)},
        "by_stage": {Stage.TRAIN: 1},
        "by_size": {(1, 2): 3, "usual": 4},
        "args": argparse.Namespace(output=pathlib.PurePosixPath("/out"), since=datetime.datetime(2024, 1, 2)),
        "names": np.array(["cat", "dog"]),
        "things": np.array([None, 1]),
        "best": np.str_("epoch_3"),
        "milestones": collections.Counter([3, 6]),
        "recent": collections.deque([1, 2]),
        "generators": (np.random.default_rng(0), np.random.RandomState(0), random.getstate()),
        "more": [decimal.Decimal("0.1"), complex(1, 2), slice(1), range(3), {1.5}],
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_weights_beside_objects_of_any_class(tmp_path, objects, monkeypatch, protocol):
    content = pickle.dumps({"model": WEIGHTS, **objects, "epoch": 3}, protocol)
    monkeypatch.delitem(sys.modules, "publisher")
    (tmp_path / "m.pdparams").write_bytes(content)
    contents = read(tmp_path / "m.pdparams")
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(contents.tree["model"][name], array)
    assert contents.tree["epoch"] == 3 and "publisher" not in sys.modules
    assert contents.tree["message_hub"] == {"loss": {}} and contents.tree["hyper_parameters"] == {"lr": 0.1}
    assert contents.tree["by_size"] == {"usual": 4} and contents.tree["milestones"] == {3: 1, 6: 1}
    assert contents.tree["args"] == {"output": {}, "since": {}}
    assert contents.tree["names"] == {} and contents.tree["best"] == {}
    expected = {
        "publisher.History",
        "publisher.Attributes",
        "publisher.Stage",
        "publisher.Address",
        "decimal.Decimal",
    }
    expected |= {
        "datetime.datetime",
        f"{pathlib.PurePosixPath.__module__}.PurePosixPath",  # pathlib._local in Python 3.13
        "dictionary entries whose key is a tuple, or long",
    }
    assert expected <= set(contents.left_out) and "argparse.Namespace" not in contents.left_out


@pytest.mark.parametrize("writer", [torch_zip, torch_legacy])
def test_a_pickled_model_gives_its_state_dict(tmp_path, writer):
    """What torch.save(model) and torch.save({"model": model}) write, of whatever classes."""
    layer = module(
        ("torch.nn.modules.linear", "Linear"), {"weight": STORED["a.weight"], "bias": STORED["a.bias"]}, {}
    )
    net = module(
        ("my.models", "Net"), {}, {"a": layer, "act": module(("torch.nn.modules.activation", "GELU"), {}, {})}
    )
    for tree in (net, {"model": net, "optimizer": Call("torch.optim.adam", "Adam", (), state={"state": {}})}):
        (tmp_path / "m.pth").write_bytes(writer(tree))
        contents = read(tmp_path / "m.pth")
        found = contents.tree if tree is net else contents.tree["model"]
        assert list(found) == list(WEIGHTS)
        for name, array in WEIGHTS.items():
            np.testing.assert_array_equal(found[name], array)
        assert contents.left_out == (() if tree is net else ("torch.optim.adam.Adam",))


def test_a_file_of_nothing_but_an_object_is_named(tmp_path):
    (tmp_path / "m.pth").write_bytes(torch_zip(Call("my.models", "Net", ())))
    with pytest.raises(
        CheckpointError, match="a torch zip of an object of the class my.models.Net, .*its state dict"
    ):
        read(tmp_path / "m.pth")


def test_the_opened_checkpoint_lists_what_is_not_read(tmp_path):
    tree = publishers.unilm_file(publishers.unilm_classifier(np.random.default_rng(0)))
    (tmp_path / "m.pdparams").write_bytes(pickle.dumps({**tree, "since": datetime.datetime(2024, 1, 2)}))
    assert open_checkpoint(tmp_path / "m.pdparams").info.left_out == ("datetime.datetime",)


def test_large_integer_keys_are_read(tmp_path):
    """torch before 1.6 used the addresses of parameters as keys of the state of an optimizer."""
    state = {0x7F0000000000 + 64 * n: n for n in range(1000)}
    (tmp_path / "m.pdparams").write_bytes(pickle.dumps({"w": WEIGHTS["a.bias"], "state": state}))
    assert read(tmp_path / "m.pdparams").tree["state"] == state


def test_a_training_state_of_this_package_has_no_such_objects(tmp_path):
    with (tmp_path / "m.pdparams").open("wb") as file:
        output = paddle_files._ChecksumWriter(file)
        output.write(dumps({"w": Call("m", "C", ())}))
        file.write(b"\nBEIT-SHA256 " + output.digest.hexdigest().encode() + b"\n")
    with pytest.raises(CheckpointError, match="objects that this package does not write"):
        read_checkpoint(tmp_path / "m.pdparams")
    with pytest.raises(ValueError, match="w is a type"):
        write_checkpoint(tmp_path / "m.pdparams", {"w": Name})
