"""Pure arithmetic: what fits on which hardware. No input, no output."""
