"""A picker that learns from a few labelled particles, or from the picks of the other pickers."""
