"""The servers that flow runs need, and what serves flow runs: deployments and their worker."""
