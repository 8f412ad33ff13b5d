"""What a frozen teacher says of each augmented view of each image: computed once, then read."""
