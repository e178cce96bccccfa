"""Schedules of learning rate and weight decay, parameter groups, optimizer state, moving average of weights."""

from __future__ import annotations
