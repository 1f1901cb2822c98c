"""How a model and its packs are spread over ranks: one device mesh, and a plan a dimension."""
