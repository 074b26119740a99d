"""Experiments that are too long for a chapter: they run by themselves, and leave their results in book/results."""
