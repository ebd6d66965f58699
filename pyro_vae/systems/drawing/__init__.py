"""DRAW: a recurrent decoder and guide, and the windows through which they look at an image."""
