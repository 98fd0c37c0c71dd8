"""Goal-directed dialogues: tasks, simulated partners, imagined dialogues, their critique and their rewards."""
