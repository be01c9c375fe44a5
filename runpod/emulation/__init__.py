"""RunPod Serverless on your desk: what the platform does, and how it stumbles."""
