"""Data recipes and packing for native-resolution vision-language models."""

__version__ = "0.1.0"
