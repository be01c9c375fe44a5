"""What can stop a start: one list, for `doctor` and for `serve`."""
