"""Many runs: grid, executor, statistics, tables, figures, report; the demo and the paper's studies."""
