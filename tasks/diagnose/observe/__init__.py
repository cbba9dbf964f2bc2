"""What the logs of a run show: the rise, whose loss rose, who drifted, and what the logs cannot tell."""
