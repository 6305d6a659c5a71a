"""A conditional field whose posterior is known: Gaussian fields with power A (k / 8)^-n."""
