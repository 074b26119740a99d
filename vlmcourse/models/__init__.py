"""Networks built from the formulas in :mod:`vlmcourse.ops`."""
