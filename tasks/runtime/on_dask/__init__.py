"""Client computations on the workers of a Dask cluster: `federate.runtime.kind: dask`.

1. The process of the run walks the computation (native.py), and holds the server's state.
2. A task is a number of whole blocks of clients (sums.py). The host sends it to a worker of its choice (cluster.py,
   lane.py), with what the server sends to the clients, once a worker and round, and with the clients' names. No
   example is sent: the worker reads its clients' shards from a folder that all machines share.
3. A worker makes the same walk on its clients (task.py, remote.py). It returns each block's sum, by TFF's own
   `accumulate`, and each client's part of the results.
4. The host merges the sums of the blocks in their order (context.py). So the bits are those of one process, for any
   number of workers, and after a worker was lost: its tasks are computed again.
5. Before its first task, a worker is checked (machine.py): with other code, versions, or processors it would give other
   bits. It is then refused by name.
"""
