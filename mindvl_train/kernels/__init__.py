"""The operations a model is made of, one a file, each with a reference and room for faster twins."""
