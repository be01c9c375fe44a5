"""Several engines under one address, restarted one after the other without a request being lost."""
