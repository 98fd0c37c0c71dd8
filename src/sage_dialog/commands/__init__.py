"""What `kedro sage …` does, a module for each command."""
