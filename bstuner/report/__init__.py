"""Results in, tables and files out."""
