"""Packs of the stream become the tensors of a batch, ahead of the loop."""
