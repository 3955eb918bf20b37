"""UniQ4Cap's networks: encoders of sight, sound and words, the query transformer, and how it writes a sentence."""
