"""Adapter files: factors that do not fit, and damaged or hostile statements on the base."""

from __future__ import annotations

import json

import numpy as np
import pytest

from beit.checkpoint.adapter import describe_base, digest, header_of, merge_factors, own_tensors
from beit.checkpoint.files import read, write
from beit.checkpoint.open import open_checkpoint
from beit.containers.errors import CheckpointError
from tests.checkpoint import publishers
from tests.tiny import tiny_beit

UNILM = publishers.unilm_classifier(np.random.default_rng(0))
LAYER = "blocks.0.attn.qkv"


def factors(**changes):
    state = {
        f"{LAYER}.weight": np.ones((24, 72), np.float32),
        f"{LAYER}.lora_a": np.ones((24, 2), np.float32),
        f"{LAYER}.lora_b": np.ones((2, 72), np.float32),
        f"{LAYER}.lora_scale": np.array(0.5, np.float32),
    }
    state |= {f"{LAYER}.{name}": value for name, value in changes.items()}
    return {name: value for name, value in state.items() if value is not None}


@pytest.fixture
def adapter(tmp_path):
    """Two files: base.pth and adapter.pdparams, which adapts one layer of it."""
    write(tmp_path / "base.pth", {"model": UNILM})
    base = open_checkpoint(tmp_path / "base.pth").state
    state = base | {name: value for name, value in factors().items() if not name.endswith("weight")}
    file = tmp_path / "adapter.pdparams"
    path = tmp_path / "base.pth"
    adapter = describe_base(state, base, name="mine", path=path, key="")
    write(file, own_tensors(state, adapter), metadata=header_of(adapter))
    return file


def test_the_state_is_that_of_the_base_with_the_product_added(adapter):
    base, found = open_checkpoint(adapter.with_name("base.pth")).state, open_checkpoint(adapter).state
    assert found.keys() == base.keys()
    for name, value in base.items():
        np.testing.assert_array_equal(found[name], value + (0.5 * 2 if name == f"{LAYER}.weight" else 0.0))
    assert load_size(adapter) < load_size(adapter.with_name("base.pth")) / 5


def load_size(file):
    return file.stat().st_size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": None}, "without blocks.0.attn.qkv.weight"),
        ({"lora_a": None}, "without blocks.0.attn.qkv.lora_a"),
        ({"lora_b": None}, "without blocks.0.attn.qkv.lora_b"),
        ({"lora_scale": None}, "without blocks.0.attn.qkv.lora_scale"),
        ({"lora_a": np.ones((23, 2), np.float32)}, r"\[\[23, 2\], \[2, 72\]\] do not fit \[24, 72\]"),
        ({"lora_a": np.ones(24, np.float32)}, r"\[\[24\], \[2, 72\]\] do not fit"),
        ({"lora_b": np.ones((3, 72), np.float32)}, "different ranks"),
        ({"lora_scale": np.ones(2, np.float32)}, "different ranks"),
    ],
)
def test_factors_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(CheckpointError, match=f"LoRA factors of blocks.0.attn.qkv.*{message}"):
        merge_factors(factors(**changes))


@pytest.mark.parametrize(
    "header",
    ["", "null", "[]", "{}", "[" * 100000, '{"base": "b", "path": 1, "key": "", "sha256": "", "tensors": []}',
     '{"base": "b", "path": "", "key": "", "sha256": "", "tensors": []}',
     '{"base": "b", "path": "b", "key": "", "sha256": "", "tensors": [3]}',
     '{"base": "b", "path": "b", "key": "", "sha256": "", "tensors": 3}'],
)  # fmt: skip
def test_statements_that_are_none_are_refused(adapter, header):
    write(adapter, read(adapter).tree, metadata={"adapter": header})
    with pytest.raises(
        CheckpointError, match="adapter.pdparams: an adapter that does not state its base weights"
    ):
        open_checkpoint(adapter)


def test_an_adapter_of_itself_is_refused(adapter):
    own = read(adapter)
    header = json.loads(own.metadata["adapter"]) | {"path": str(adapter)}
    write(adapter, own.tree, metadata={"adapter": json.dumps(header)})
    with pytest.raises(CheckpointError, match="more than 8 adapters, each the base of the next one"):
        open_checkpoint(adapter)


def test_the_digest_is_of_names_shapes_and_numbers_and_not_of_the_file(tmp_path):
    state = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(1, np.float32)}
    own = digest(state, ["a", "b"])
    assert own == digest(dict(reversed(state.items())), ["b", "a"])
    assert own == digest(state | {"a": np.asfortranarray(state["a"])}, ["a", "b"])
    changed = ({"a": state["a"] + 1}, {"a": state["a"].reshape(3, 2)}, {"a": state["a"].astype(np.float64)})
    assert own not in [digest(state | change, ["a", "b"]) for change in changed]
    assert own != digest(state, ["a"])


def test_a_plain_model_loads_a_state_with_factors_merged():
    model, state = tiny_beit(), tiny_beit().state_dict()
    state |= {name: value for name, value in factors().items() if not name.endswith("weight")}
    expected = state[f"{LAYER}.weight"].numpy() + 1.0
    assert model.set_state_dict({name: np.asarray(value) for name, value in state.items()}) == ([], [])
    np.testing.assert_array_equal(model.state_dict()[f"{LAYER}.weight"].numpy(), expected)
