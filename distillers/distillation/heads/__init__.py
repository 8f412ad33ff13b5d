"""Heads that give a teacher the classes of a data set: fitted, from class embeddings, or a map."""
