"""The same model, name and flags as `make serve`, written down for other engines: a file for each format."""
