"""The evidence of every datum by sampling, with its error."""
