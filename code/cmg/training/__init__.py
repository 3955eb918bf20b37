"""The loop, its batches, and its checkpoints."""
