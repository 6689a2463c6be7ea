"""Stage `import`: movies, micrographs or particles from elsewhere become sets with optics, checked file by file."""
