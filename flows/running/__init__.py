"""Code that all tasks of a flow run share: the session, the run of one step, the artifacts in the Prefect UI."""
