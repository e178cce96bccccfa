"""What can be trained and evaluated; the name is the config's `TASK`."""

from beit.tasks.classify import Classify
from beit.tasks.knn import Knn
from beit.tasks.multilabel import MultiLabel
from beit.tasks.pretrain import Pretrain
from beit.tasks.probe import Probe
from beit.tasks.segment import Segment
from beit.tasks.task import Task
from beit.tasks.tokenizer import Tokenizer

TASKS: dict[str, type[Task]] = {
    "classify": Classify,
    "knn": Knn,
    "multilabel": MultiLabel,
    "pretrain": Pretrain,
    "probe": Probe,
    "segment": Segment,
    "tokenizer": Tokenizer,
}

__all__ = ["TASKS", "Task"]
