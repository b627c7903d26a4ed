"""Presets for planning and training, as JSON files; `README.md` explains every field."""
