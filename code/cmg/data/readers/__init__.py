"""Readers of released features: `cmg.data.readers.contract` says what one is, `cmg.data.convert` uses them."""
