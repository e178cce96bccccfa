"""Linear probes and nearest neighbors over layers: features, independence, votes, tables, errors."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from PIL import Image

from beit.beit import Beit
from beit.data.sampler import Sample
from beit.models.features import FeatureName, FrozenFeatures
from beit.optim.groups import set_step
from beit.tasks import TASKS
from beit.tasks.knn import neighbor_votes
from beit.tasks.layer_table import LayerTable
from beit.tasks.probe import LinearProbes
from beit.train.run import run
from tests.tiny import tiny_config, write_dataset


def encoder(**options):
    sizes = {"image_size": (12, 12), "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3}
    return Beit(**sizes, num_classes=0, **{"use_mean_pooling": False} | options)


def task(name, tmp_path, **keys):
    keys = {"TASK": name, "MODEL__USE_MEAN_POOLING": False, "EVAL": name == "knn"} | keys
    return TASKS[name](tiny_config(tmp_path, tmp_path / "out", **keys))


# ---- features ----------------------------------------------------------------------------------------------------


def test_features_are_class_token_and_mean_patch_of_each_block():
    model = encoder()
    images = paddle.randn([2, 3, 12, 12])
    found = FrozenFeatures(model, kinds=("class", "patches", "both"), use_norm=False)(images)
    assert list(found) == [
        FeatureName(layer, kind) for layer in (1, 2, 3) for kind in ("class", "patches", "both")
    ]
    for layer, tokens in enumerate(
        model.forward_outputs(images, hidden_states=[0, 1, 2]).hidden_states, start=1
    ):
        tokens = tokens.numpy()
        expected = tokens[:, 0], tokens[:, 1:].mean(1)
        np.testing.assert_allclose(found[FeatureName(layer, "class")].numpy(), expected[0], atol=1e-6)
        np.testing.assert_allclose(found[FeatureName(layer, "patches")].numpy(), expected[1], atol=1e-6)
        both = found[FeatureName(layer, "both")].numpy()
        np.testing.assert_allclose(both, np.concatenate(expected, axis=1), atol=1e-6)


def test_layers_kinds_and_norm_can_be_chosen():
    model = encoder()
    features = FrozenFeatures(model, layers=(3, 1), kinds=("class",), use_norm=True)
    assert features.widths == {FeatureName(3, "class"): 24, FeatureName(1, "class"): 24}
    images = paddle.randn([2, 3, 12, 12])
    last = features(images)[FeatureName(3, "class")]
    np.testing.assert_allclose(last.numpy(), model.forward_features(images).numpy(), atol=1e-6)
    assert last.stop_gradient
    assert not model.training
    assert all(parameter.stop_gradient for parameter in model.parameters())


def test_features_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match=r"PROBE.LAYERS \[4\] do not exist; the model has blocks 1 to 3"):
        FrozenFeatures(encoder(), layers=(2, 4), use_norm=False)
    with pytest.raises(ValueError, match="PROBE.USE_NORM True needs .* MODEL.USE_MEAN_POOLING False"):
        FrozenFeatures(encoder(use_mean_pooling=True), use_norm=True)


# ---- linear probe ------------------------------------------------------------------------------------------------


def test_initial_values_are_the_official_ones():
    paddle.seed(0)
    state = LinearProbes({FeatureName(1, "both"): 200, FeatureName(2, "class"): 100}, 50).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "layer_01_both.weight": (200, 50),
        "layer_01_both.bias": (50,),
        "layer_02_class.weight": (100, 50),
        "layer_02_class.bias": (50,),
    }
    assert float(state["layer_01_both.weight"].std()) == pytest.approx(0.01, rel=0.05)
    assert float(state["layer_01_both.bias"].abs().max()) == 0


def test_features_can_be_normalized_over_the_batch():
    name = FeatureName(1, "class")
    probes = LinearProbes({name: 6}, 2, batch_norm=True)
    features = 3 + 0.01 * np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    state = {key: value.numpy() for key, value in probes.state_dict().items()}
    expected = (features - features.mean(0)) / np.sqrt(features.var(0) + 1e-6)
    expected = expected @ state["layer_01_class.linear.weight"]
    found = probes({name: paddle.to_tensor(features)})[name].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert len(probes.parameters()) == 2  # weight and bias of the classifier
    probes.eval()
    for key, value in (("mean", 0.1 * features.mean(0)), ("variance", 0.9 + 0.1 * features.var(0))):
        np.testing.assert_allclose(
            probes.state_dict()[f"layer_01_class.norm.{key}"].numpy(), value, rtol=1e-4
        )
    expected = (features - 0.1 * features.mean(0)) / np.sqrt(0.9 + 0.1 * features.var(0))
    expected = expected @ state["layer_01_class.linear.weight"]
    np.testing.assert_allclose(probes({name: paddle.to_tensor(features)})[name].numpy(), expected, atol=1e-4)


def train_some_steps(probe, batches):
    groups = probe.param_groups()
    assert all(group["decays"] for group in groups)  # biases decay, too, as in the official optimizer
    optimizer = paddle.optimizer.AdamW(learning_rate=4e-3, parameters=groups)
    for batch in batches:
        probe(batch, np.random.default_rng(0))["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()
    return {name: value.numpy() for name, value in probe.model.state_dict().items()}


def test_each_probe_equals_one_that_is_trained_alone(tmp_path):
    rng = np.random.default_rng(0)
    batches = [
        {
            "image": paddle.to_tensor(rng.integers(0, 256, (4, 3, 16, 16)).astype("uint8")),
            "label": paddle.to_tensor(rng.integers(0, 3, 4)),
        }
        for _ in range(3)
    ]
    paddle.seed(1)
    together = task("probe", tmp_path)
    paddle.seed(1)
    single = task("probe", tmp_path, PROBE__LAYERS=[2], PROBE__KINDS=["patches"])
    start = {
        name: value
        for name, value in together.model.state_dict().items()
        if name.startswith("layer_02_patches")
    }
    single.model.set_state_dict(start)
    backbone = {name: value.numpy() for name, value in together._features.backbone.state_dict().items()}
    for name, value in single._features.backbone.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), backbone[name])
    trained = train_some_steps(together, batches)
    for name, value in train_some_steps(single, batches).items():
        np.testing.assert_allclose(value, trained[name], atol=1e-6)
    for name, value in together._features.backbone.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), backbone[name])  # frozen


def test_sgd_has_momentum_and_no_weight_decay(tmp_path):
    write_dataset(tmp_path, train=8, val=2)
    sgd = task("probe", tmp_path, PROBE__OPTIMIZER="sgd", PROBE__LAYERS=[1], PROBE__KINDS=["class"])
    groups = sgd.param_groups()
    optimizer = sgd.optimizer(groups)
    assert [group["decays"] for group in groups] == [False]
    weight = sgd.model.state_dict()["layer_01_class.weight"]
    expected, velocity, gradient = weight.numpy().copy(), 0.0, np.full(weight.shape, 0.5, np.float32)
    for rate in (0.1, 0.05):
        set_step(optimizer, rate, 0.05)
        (weight * paddle.to_tensor(gradient)).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
        velocity = 0.9 * velocity + gradient
        expected = expected - rate * velocity
        np.testing.assert_allclose(weight.numpy(), expected, atol=1e-6)
    metrics = run(tiny_config(tmp_path, tmp_path / "run", TASK="probe", PROBE__OPTIMIZER="sgd"))
    assert metrics["count"] == 2


def test_invalid_configs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="TASK: probe evaluates while it trains"):
        task("probe", tmp_path, EVAL=True)
    with pytest.raises(ValueError, match="TRAIN.FREEZE_LAYERS"):
        task("probe", tmp_path, TRAIN__FREEZE_LAYERS=1)
    with pytest.raises(ValueError, match="MODEL.NUM_CLASSES = 0; TASK: probe needs at least one class"):
        task("probe", tmp_path, MODEL__NUM_CLASSES=0)


# ---- nearest neighbors ------------------------------------------------------------------------------------------


def test_votes_equal_those_of_dino():
    rng = np.random.default_rng(2)
    memory = rng.standard_normal((30, 6))
    memory /= np.linalg.norm(memory, axis=1, keepdims=True)
    queries, labels = memory[:5] + 0.1, rng.integers(0, 4, 30)
    expected = np.zeros((5, 4))
    for row, query in enumerate(queries):
        cosines = memory @ query
        for index in np.argsort(-cosines)[:7]:
            expected[row, labels[index]] += np.exp(cosines[index] / 0.07)
    found = neighbor_votes(
        paddle.to_tensor(queries, "float32"),
        paddle.to_tensor(memory, "float32"),
        paddle.to_tensor(labels),
        num_classes=4,
        neighbors=7,
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)


def test_fewer_images_than_neighbors_all_vote():
    votes = neighbor_votes(
        paddle.eye(2), paddle.eye(2), paddle.to_tensor([0, 2]), num_classes=3, neighbors=20, temperature=1.0
    )
    np.testing.assert_allclose(votes.numpy(), [[np.e, 0, 1], [1, 0, np.e]], rtol=1e-5)


def test_training_images_are_their_own_neighbors(tmp_path):
    write_dataset(tmp_path, train=12, val=3)
    knn = task("knn", tmp_path, PROBE__NEIGHBORS=1, PROBE__KINDS=["class", "both"])
    dataset = knn.dataset("train")
    items = [dataset[Sample(index, index)] for index in range(12)]
    batch = {key: paddle.to_tensor(np.stack([item[key] for item in items])) for key in items[0]}
    sums = knn.eval_step(batch)
    assert sums["top1"].tolist() == [12] * 4  # two layers, two kinds
    assert knn.metrics({key: value.numpy() for key, value in sums.items()})["top1"] == 100.0
    few = task("knn", tmp_path, PROBE__KNN_IMAGES=5)
    few.eval_step(batch)
    assert {len(features) for features in few._train_features.values()} == {5}


def test_knn_trains_nothing(tmp_path):
    with pytest.raises(ValueError, match="TASK: knn trains nothing: add -eval"):
        task("knn", tmp_path, EVAL=False)


# ---- results -----------------------------------------------------------------------------------------------------


@pytest.fixture
def table():
    names = [FeatureName(layer, kind) for layer in (1, 2) for kind in ("class", "patches")]
    sums = {
        "count": 200.0,
        "top1": np.array([20.0, 30.0, 40.0, 35.0]),
        "top5": np.array([50.0, 60.0, 70.0, 80.0]),
    }
    return LayerTable.from_sums("linear probe of tiny", {"seed": 3}, names, sums)


def test_the_best_feature_and_the_best_of_each_kind(table):
    assert table.best == FeatureName(2, "class")
    assert table.metrics() == {
        "top1": 20.0,
        "top5": 35.0,
        "best_layer": 2.0,
        "top1_class": 20.0,
        "top1_patches": 17.5,
        "count": 200.0,
    }


def test_results_as_table_json_and_plot(table, tmp_path):
    (plot,) = table.write(tmp_path, "probe").values()
    lines = (tmp_path / "probe.txt").read_text().splitlines()
    assert lines[1].split() == ["layer", "class", "patches"]
    assert lines[3].split() == ["2", "20.00*", "17.50"]
    result = json.loads((tmp_path / "probe.json").read_text())
    assert (result["best"], result["seed"], result["count"]) == ("layer_02_class", 3, 200)
    assert {"layer": 1, "kind": "patches", "top1": 15.0, "top5": 30.0} in result["features"]
    assert plot.dtype == np.uint8
    with Image.open(tmp_path / "probe.png") as drawn:
        assert drawn.size == (plot.shape[1], plot.shape[0])


def test_a_single_feature():
    names = [FeatureName(9, "both")]
    table = LayerTable.from_sums("kNN", {}, names, {"count": 4.0, "top1": 1.0, "top5": 2.0})
    assert table.metrics()["top1"] == 25.0
