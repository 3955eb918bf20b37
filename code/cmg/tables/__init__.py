"""Tables of results from a few declared lines: `python -m cmg.tables`."""
