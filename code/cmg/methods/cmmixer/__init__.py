"""CMMixer (Yuan et al., Knowledge-Based Systems 2024): "Video and Audio are Images". The pictures of two modalities are
mixed, most of the mixture is hidden, and both are rebuilt."""
