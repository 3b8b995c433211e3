"""The API in tables: what ``openapi`` makes the description of."""
