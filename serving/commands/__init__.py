"""One `python -m serving X` each, with what it draws."""
