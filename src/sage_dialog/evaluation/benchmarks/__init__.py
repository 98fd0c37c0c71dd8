"""Standard benchmarks of language models, run by lm-eval (paper Table 2)."""
