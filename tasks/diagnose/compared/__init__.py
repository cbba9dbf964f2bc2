"""The question `against`: why does this run end with a higher loss than another one? What differs is taken back."""
