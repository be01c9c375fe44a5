"""What a machine has: its GPUs, as the driver reports them or as somebody describes them."""
