"""What is measured, each case a module."""
