"""What changes the weights: schedules (step to value), parameter groups, the average of weights."""

from __future__ import annotations
