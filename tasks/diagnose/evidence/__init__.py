"""What the clients' data and updates say about each of them, from the model before the rise."""
