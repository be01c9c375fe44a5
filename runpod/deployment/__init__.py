"""From settings to an endpoint on RunPod and back to zero."""
