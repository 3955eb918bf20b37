"""From media files and captions to one feature file: `python -m cmg.extract`. Training never imports this package."""
