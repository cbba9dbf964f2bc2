"""The servers that flow runs need, the deployments, and the worker that runs them."""
