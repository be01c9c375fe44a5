"""How many users a server carries, and what a token costs: a load test against whatever the LLM_* settings name."""
