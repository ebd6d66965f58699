"""What looks at posteriors: how far each is from the truth, and whether to trust it."""
