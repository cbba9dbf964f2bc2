"""A run that ended before its last round: why, since when, and a setting with which it trains."""
