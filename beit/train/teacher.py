"""Loads the teacher that TRAIN.DISTILL.TEACHER names."""

from __future__ import annotations

from collections.abc import Sequence

from beit.config import image_hw
from beit.data.class_matching import KnownClasses
from beit.predict.classifier import Classifier
from beit.predict.inference import load_predictor
from beit.tasks import Task
from beit.tasks.classify import Classify
from beit.tasks.distill import Teacher


def load_teacher(task: Task, class_names: Sequence[str] | None) -> str | None:
    """Give a task the teacher of its config; a sentence for the log, None without a teacher.

    Args:
        task: of a training run; only classifiers have teachers.
        class_names: of the training images, in the order of the labels; None if they have no names.

    Raises:
        ValueError: the teacher is not a classifier with one label per image, or has other classes; or as `load_predictor`.
    """
    source = task.config.TRAIN.DISTILL.TEACHER
    if not source or task.config.TASK != "classify":
        return None
    found = load_predictor(source, image_size=image_hw(task.config))
    if not isinstance(found, Classifier) or not found.num_classes:
        raise ValueError(f"TRAIN.DISTILL.TEACHER = {source} is not a classifier; name the weights of one")
    if found.threshold is not None:  # their logits have no softmax
        raise ValueError(
            f"TRAIN.DISTILL.TEACHER = {source} gives images several labels; name a classifier with one label for each image"
        )
    names = found.class_names if task.config.DATA.MATCH_CLASS_NAMES else None
    outputs, classes = None, task.config.MODEL.NUM_CLASSES
    if names is not None and class_names is not None:
        outputs = KnownClasses(names, f"the teacher {source}").outputs(class_names)
    elif found.num_classes != classes:
        raise ValueError(
            f"TRAIN.DISTILL.TEACHER = {source} has {found.num_classes} classes, the run has {classes}, and not both name "
            "them: choose a teacher of the same classes, or add class_names.txt to the folder that lacks it"
        )
    assert isinstance(task, Classify)
    data, own = task.config.DATA, found.preprocessing
    assert own.mean is not None and own.std is not None  # no predictor is built without
    task.teacher = Teacher(
        found.model, own.mean, own.std, data.IMAGENET_MEAN, data.IMAGENET_STD, outputs=outputs
    )
    is_same = (tuple(own.mean), tuple(own.std)) == (tuple(data.IMAGENET_MEAN), tuple(data.IMAGENET_STD))
    return (
        f"teacher: {source}, {found.num_classes} classes{'' if outputs is None else ', matched by name'}"
        f"{'' if is_same else '; images are normalized again for it'}"
    )
