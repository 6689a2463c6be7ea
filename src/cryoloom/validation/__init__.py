"""Stage `validate`: whether a map is true, asked in every way that is known to catch a false one."""
