"""Agreement of several pickers, and what each pick looks like, made into one probability per pick."""
