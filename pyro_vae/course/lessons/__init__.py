"""The exercises of the twelve lessons, a file a lesson."""
