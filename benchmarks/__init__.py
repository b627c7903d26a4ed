"""Side-by-side measurements, runnable by anyone: ``python -m benchmarks`` lists them."""
