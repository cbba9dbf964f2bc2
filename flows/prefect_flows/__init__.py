"""The Prefect flows, and how a command starts one."""
