"""Work inside a running Lightning fit, leaving no trace in it."""
