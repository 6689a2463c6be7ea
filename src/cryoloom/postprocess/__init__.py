"""Stage `postprocess`: mask, mask-corrected FSC, resolution with its interval, B-factor and sharpened map."""
