"""What the command lines share: options, reading of texts, writing of vectors, progress."""
