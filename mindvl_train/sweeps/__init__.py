"""Mixtures tried on small proxies: a design, runs, scores on held-out sets, a quadratic, and the shares it proposes."""
