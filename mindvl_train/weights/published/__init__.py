"""Published models: what their folders call our configurations and weights. No model imports this package."""
