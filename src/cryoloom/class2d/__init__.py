"""2D classification: views found, averaged and judged without a model."""
