"""Raw datasets and image files, preprocessed cases, splits, patches and batches, and simulated scans."""
