"""The lecture's formulas, each written once with einops and tested against PyTorch's own kernel or a loop."""
