"""Networks in files: read, written, exported, published."""
