"""Every picture, drawn with Matplotlib."""
