"""Which model to use: ensembles, post-processing, and the choice between configurations by cross-validation."""
