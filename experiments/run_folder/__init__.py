"""A run's folder: its files, who writes them, and who reads them."""
