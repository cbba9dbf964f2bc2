"""The client updates. `federate.client.kind` is the key; each module has the equations of its paper.

What each method means: tasks/local/client_update.py. Where the client calls the methods: tasks/local/update.py and
descent.py. Where the server calls them: tasks/federate/round.py.
"""

from tasks.federate.client_updates.feddyn import FedDyn
from tasks.federate.client_updates.fednova import FedNova
from tasks.federate.client_updates.fedprox import FedProx
from tasks.federate.client_updates.mimelite import MimeLite
from tasks.federate.client_updates.scaffold import Scaffold
from tasks.local.client_update import ClientUpdate

CLIENT_UPDATES: dict[str, type[ClientUpdate]] = {
    "sgd": ClientUpdate,
    "fedprox": FedProx,
    "scaffold": Scaffold,
    "fednova": FedNova,
    "feddyn": FedDyn,
    "mimelite": MimeLite,
}
