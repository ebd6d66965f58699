"""Of the model: how far it is from the data."""
