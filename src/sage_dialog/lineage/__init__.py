"""Run records of a Kedro project, and what follows from them: stale outputs, replays, differences, pruning."""
