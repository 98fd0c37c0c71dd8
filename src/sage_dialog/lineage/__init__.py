"""What each run read, did and wrote, and what can be told from it: reruns, differences, what is stale."""
