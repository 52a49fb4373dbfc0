"""Whether budgets are kept: sizes asked for and reached, on four models."""
