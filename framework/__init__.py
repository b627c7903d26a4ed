"""The machine: loop, hooks, plans, data, networks, losses, inference. It knows no trainer by name."""

__version__ = "0.1.0"
