"""The HTTP API: nothing outside this folder imports flask."""
