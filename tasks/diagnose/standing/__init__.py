"""A loss that did not rise and is higher than it should be: what has been in its way since the start."""
