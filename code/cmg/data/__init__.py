"""Feature files, their origins, and annotation files."""
