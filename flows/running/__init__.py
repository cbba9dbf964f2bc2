"""What the tasks of a flow run share: the session, the run of one step, and what the Prefect UI shows."""
