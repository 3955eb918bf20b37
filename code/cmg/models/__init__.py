"""Networks: encoders, decoders, the codebook, and what pretraining leaves behind."""
