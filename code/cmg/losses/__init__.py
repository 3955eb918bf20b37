"""The objectives of the papers, one file each, on plain tensors."""
