"""The dataset doctor: what is wrong with a raw dataset, explained before a training is spent on it."""
