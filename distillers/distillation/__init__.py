"""The task of distillation: a student, a frozen teacher, and weighted losses."""
