"""MultiSK (Swetha et al., ICCV 2023): contrastive learning that preserves the structure of every modality."""
