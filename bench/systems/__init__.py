"""The systems that are measured, each a module."""
