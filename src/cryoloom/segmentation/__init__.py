"""Stage `segment`: a map taken apart into regions around its peaks, with a mask and a suggested level."""
