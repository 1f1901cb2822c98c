"""What everything stands on: fingerprints, plugins, the terminal. Imports nothing of ours but errors."""
