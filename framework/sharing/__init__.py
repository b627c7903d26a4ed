"""Trained models as one file: packed for others, and taken in from strangers without trusting them."""
