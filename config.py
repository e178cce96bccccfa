"""Lets the documented `from config import get_config` work from the repository root; the config is beit/config.py."""

from beit.config import get_config

__all__ = ["get_config"]
