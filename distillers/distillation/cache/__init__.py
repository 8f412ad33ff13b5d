"""Cache the outputs of a frozen teacher for each augmented view of each training image."""
