"""What runs once and leaves a file that is committed: long experiments, shipped models, reference curves, cards."""
