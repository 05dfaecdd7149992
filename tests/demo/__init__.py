"""The article's scenario, end to end: `python -m tests.demo`, which is `make demo`."""
