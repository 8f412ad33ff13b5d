"""Flags as typed dataclasses, and their parsing; nothing here imports torch."""
