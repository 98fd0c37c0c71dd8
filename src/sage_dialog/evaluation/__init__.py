"""What rollouts show: votes, exact statistics, figures, the report (paper §3.6, §4)."""
