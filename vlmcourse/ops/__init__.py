"""The lecture's formulas, each written once with einops and proved equal to PyTorch's own kernel or a loop."""
