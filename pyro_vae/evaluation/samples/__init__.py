"""Of what a generator draws: how good, how varied, and whether it was drawn before."""
