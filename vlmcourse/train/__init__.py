"""What trains and what judges: the loop, checkpoints, several processes, probes, SimCLR, a small VLM."""
