"""The commands, one module each: `add_arguments(parser)` and `run(session, options) -> int`, the exit status."""
