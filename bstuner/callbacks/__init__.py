"""The public callbacks, one file each, each a thin shell over the floors below."""
