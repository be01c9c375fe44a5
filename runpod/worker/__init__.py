"""The RunPod worker: jobs in, answers out, and its life. Knows nothing of deployment or emulation."""
