"""Weights on disk: checkpoints, model folders, published names, averages."""
