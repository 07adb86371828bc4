"""The clients, a file for each family."""
