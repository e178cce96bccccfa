"""The table of networks by task."""

from __future__ import annotations

from beit.models.build import BUILDERS, build_model
from beit.tasks import TASKS
from tests.tiny import tiny_config


def test_every_task_has_a_builder():
    assert set(BUILDERS) == set(TASKS)


def test_the_task_of_the_config_chooses_the_network():
    assert build_model(tiny_config()).num_classes == 3
    assert build_model(tiny_config(TASK="knn")).num_classes == 0
