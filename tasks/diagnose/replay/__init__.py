"""The rounds of a run again, with one factor changed: what decides between causes. The part that needs TensorFlow."""
