"""Supervised fine-tuning and preference tuning with TRL, resumable and in one or several processes."""
