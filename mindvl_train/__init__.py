"""The lean trainer that consumes packed multimodal shards."""
