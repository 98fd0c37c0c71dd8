"""The training mix, and supervised and preference learning on TRL and PEFT."""
