"""Figures: plots that return Matplotlib axes, and pictures to play with in the page."""
