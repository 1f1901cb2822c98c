"""A run, top to bottom: assembly, stages, steps, and what it says of itself."""
