"""Training and evaluation: the loop, checkpoints, several processes, probes, SimCLR, a small VLM."""
