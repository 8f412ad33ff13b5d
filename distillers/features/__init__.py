"""Where a network is read: taps, the rules that find them, and the extractor."""
