"""The tools behind make: they build the book, record results, and keep notebooks in one form."""
