"""The Prefect flows, and how a command starts a flow run."""
