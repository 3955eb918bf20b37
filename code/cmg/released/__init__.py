"""The released code's arithmetic in the place of the paper's, and its checkpoints."""
