"""The books: project folder, job records, resume, lineage. The folder is the truth; the index is a cache."""
