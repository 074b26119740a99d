"""Inputs for every experiment: generated scenes, embedded and downloaded datasets, augmentation."""

from . import scenes

__all__ = ["scenes"]
