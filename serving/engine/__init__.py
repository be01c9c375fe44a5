"""One life of vLLM: how it is called, watched and read."""
