"""Models over packed streams: a vision tower, a projector and a decoder, joined by `vlm`."""
