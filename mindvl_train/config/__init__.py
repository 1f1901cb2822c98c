"""The run's YAML: frozen models, their loading, and the record that a run keeps of it."""
