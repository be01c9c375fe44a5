"""One request on the wire: connection, bytes, events, chunks, and the errors that servers send. Not public."""
