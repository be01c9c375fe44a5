"""Units of memory: GiB is what GPUs and vLLM count in, GB what disks and downloads do."""

GIB = 1024**3
GB = 10**9
