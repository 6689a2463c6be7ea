"""Reports: stored figure data drawn, and one self-contained HTML page per job and per project."""
