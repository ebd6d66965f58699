"""The same data under many settings, and their table."""
