"""The tasks that a checkpoint is tested on."""
