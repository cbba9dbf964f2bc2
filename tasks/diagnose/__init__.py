"""The step `diagnose`: what the logs show, what the clients' data say, which cause a replay proves, which remedy."""

from tasks.diagnose.step import diagnose, diagnose_logs, diagnosis

__all__ = ["diagnose", "diagnose_logs", "diagnosis"]
