"""The command line: parse, call a stage, show the result. No science, no file formats."""
