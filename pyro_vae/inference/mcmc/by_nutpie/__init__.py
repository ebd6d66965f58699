"""NUTS by nutpie: the log density as it takes it, and its chains."""
