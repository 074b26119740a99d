"""Inputs for every experiment: generated scenes, embedded and downloaded datasets, augmentation."""

from vlmcourse.data import scenes

__all__ = ["scenes"]
