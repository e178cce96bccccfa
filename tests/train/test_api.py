"""`beit.train` and `beit.evaluate`: the metrics and files of the commands, options by keyword."""

from __future__ import annotations

import inspect
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

import beit
from beit.flags import FLAGS, keyword_options
from beit.parallel.signals import EXIT_STOPPED, STOP_SIGNALS
from beit.parallel.stop import StopVote
from beit.schema import SCHEMA
from beit.train import api
from beit.train.state import RanksFailedError, StoppedError
from tests.tiny import TINY, losses, run_command
from tests.tiny import command as command_line

CONFIG = beit.get_config()


@pytest.mark.slow
def test_train_gives_the_run_of_the_command(data, tmp_path, capsys):
    result = beit.train(CONFIG, data=data, output=tmp_path / "python", **TINY)
    assert run_command(command_line("main_single_gpu.py", data, tmp_path / "command")).returncode == 0
    # Not equal in every bit: the command sets variables that Paddle's libraries read while they are loaded.
    assert losses(tmp_path / "python") == pytest.approx(losses(tmp_path / "command"), rel=1e-4)
    assert (result.output / "config.yaml").read_text().replace("python", "command") == (
        tmp_path / "command/config.yaml"
    ).read_text()
    assert (result.output, result.weights) == (tmp_path / "python", tmp_path / "python/model.pdparams")
    assert result.best == tmp_path / "python/best.pdparams"
    last = [json.loads(line) for line in (result.output / "metrics.jsonl").read_text().splitlines()][-1]
    assert result.metrics["top1"] == last["val/top1"] and result.metrics["count"] == 10
    assert str(result).startswith(f"{tmp_path / 'python'}: top1 {result.metrics['top1']:.4g}  ")
    assert "epoch 2.00/2" in capsys.readouterr().out


def test_evaluate_a_run_folder_and_a_config_with_weights(data, tmp_path):
    trained = beit.train(
        CONFIG, data, tmp_path / "run", num_epochs=1, warmup_epochs=0, **without(TINY, "EPOCHS")
    )
    again = beit.evaluate(trained.output)
    assert again.metrics["top1"] == trained.metrics["top1"]
    assert again.metrics["loss"] == pytest.approx(trained.metrics["loss"], abs=1e-6)
    assert (again.output, again.weights, again.best) == (trained.output, trained.weights, None)
    assert json.loads((trained.output / "eval.json").read_text())["top1"] == again.metrics["top1"]
    other = beit.evaluate(
        trained.output / "config.yaml", output=tmp_path / "other", pretrained=trained.best, batch_size=3
    )
    assert other.metrics["top1"] == trained.metrics["top1"]
    assert (other.output, other.weights) == (tmp_path / "other", trained.best)
    assert (tmp_path / "other" / "eval.json").is_file()


@pytest.mark.slow
def test_two_ranks_give_the_same_kind_of_result(data, tmp_path):
    one = beit.train(CONFIG, data, tmp_path / "one", **TINY | {"DATA__BATCH_SIZE": 8})
    two = beit.train(CONFIG, data, tmp_path / "two", nprocs=2, **TINY)
    assert two.metrics.keys() == one.metrics.keys()
    assert two.metrics["count"] == 10
    assert len(losses(two.output)) == len(losses(one.output))
    evaluated = beit.evaluate(two.output, nprocs=2)
    assert evaluated.metrics["top1"] == two.metrics["top1"]


@pytest.mark.parametrize(
    ("status", "error"), [(EXIT_STOPPED, StoppedError), (2, RanksFailedError), (1, RuntimeError)]
)
def test_failed_ranks_raise(status, error, data, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "launch_ranks", lambda *_: status)
    with pytest.raises(error, match="resume" if error is StoppedError else f"exit status {status}"):
        beit.train(CONFIG, data, tmp_path / "run", nprocs=2, **TINY)


def test_a_run_in_another_thread(data, tmp_path):
    """Only the main thread can install handlers of signals."""
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(beit.train, CONFIG, data, tmp_path / "run", **TINY).result()
    assert result.metrics["count"] == 10


def test_a_stopped_run_leaves_the_handlers_of_the_program(data, tmp_path, monkeypatch):
    monkeypatch.setattr(
        StopVote, "passed", lambda vote: os.kill(os.getpid(), signal.SIGTERM) or vote.requested
    )
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    with pytest.raises(StoppedError, match="stopped by SIGTERM after step 1; the state is saved"):
        beit.train(CONFIG, data, tmp_path / "run", **TINY)
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before


def test_mistakes_of_the_user_are_value_errors(data, tmp_path):
    with pytest.raises(ValueError, match="unknown option batchsize; did you mean batch_size"):
        beit.train("beit_tiny_patch16_224", data, tmp_path, batchsize=3)
    with pytest.raises(
        ValueError, match=r"embed_dim is the name of MODEL.EMBED_DIM, TOKENIZER.EMBED_DIM; write model__"
    ):
        beit.train("beit_tiny_patch16_224", data, tmp_path, embed_dim=3)
    with pytest.raises(ValueError, match="-eval needs the weights"):
        beit.evaluate(CONFIG, data, tmp_path / "run", **TINY)
    with pytest.raises(ValueError, match="-resume auto with -eval: an evaluation continues no run"):
        beit.evaluate(CONFIG, data, tmp_path / "run", pretrained="best.pdparams", resume="auto", **TINY)
    with pytest.raises(FileNotFoundError, match="config file beit_tinny does not exist"):
        beit.train("beit_tinny", data, tmp_path)


def test_every_flag_and_every_key_is_a_keyword():
    assert keyword_options({"data_path": "x", "batch_size": 3}) == [
        "DATA.DATA_PATH",
        "x",
        "DATA.BATCH_SIZE",
        3,
    ]
    assert keyword_options({"num_epochs": 2, "TRAIN__BASE_LR": 0.5}) == [
        "TRAIN.NUM_EPOCHS",
        2,
        "TRAIN.BASE_LR",
        0.5,
    ]
    for name, (key, _) in FLAGS.items():
        assert keyword_options({name: 1}) == [key, 1]
    for key in SCHEMA:
        assert keyword_options({key.lower().replace(".", "__"): 1}) == [key, 1]
        assert keyword_options({key: 1}) == [key, 1]


def test_the_name_stands_for_the_function_and_the_package():
    import beit.train.run

    assert callable(beit.train) and beit.train.run.run
    assert inspect.signature(beit.train) == inspect.signature(api.train)


def without(keys, text):
    return {name: value for name, value in keys.items() if text not in name}
