"""Each client update against its paper: closed forms on quadratics, and a slow reference over whole runs.

The quadratic client k has F_k(w) = 1/(2N) ‖A_k w − b_k‖², with H_k = AᵀA/N and its own minimum w_k*. Its batch holds
all its data, so every step is exact gradient descent: K steps of rate η from x end at w_k* + (I − ηH_k)^K (x − w_k*).
"""

import ast
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tasks.federate import federate
from tasks.federate.aggregators import mean
from tasks.federate.client_updates import CLIENT_UPDATES
from tasks.federate.cohort import Client, Cohort
from tasks.federate.round import build_round
from tasks.federate.runner import Phase, Runner
from tasks.federate.schedule import client_rng, epochs, sample, visits
from tasks.federate.server_optimizers import SERVER_OPTIMIZERS
from tasks.local.architecture import Architecture
from tasks.local.descent import LocalTraining
from tasks.models import build
from tasks.parameters import flatten
from tasks.settings import AggregatorSettings, ClientSettings, ServerOptimizerSettings
from tests.rounds import next_round
from tests.shards import alone

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for path in (ROOT / "tasks/federate/client_updates").glob("*.py") if path.stem != "__init__")
ROUND = "tasks/federate/round.py"
DIM, SIZES, RATE = 3, (4, 6, 9), 0.2


@pytest.fixture(scope="module", autouse=True)
def in_this_process(one_thread):
    with one_thread():
        yield


def docstrings(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef))
    return "\n".join(ast.get_docstring(node) or "" for node in documented)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_each_client_update_names_its_paper_and_where_the_round_is(path):
    text = docstrings(path)
    assert re.search(r"arXiv \d{4}\.\d{5}", text)
    assert re.search(r"(Algorithm|equation) \d", text)
    assert ROUND in text


@pytest.mark.parametrize("path", [*MODULES, ROOT / ROUND], ids=lambda path: path.stem)
def test_files_that_tell_a_round_exist(path):
    named = re.findall(r"tasks/[\w/]+(?:\.py)?", docstrings(path))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


class Quadratics:
    """Clients whose Hessians and minima differ."""

    def __init__(self, folder):
        rng = np.random.default_rng(5)
        self.data, self.stored, self.hessian, self.minimum = [], [], [], []
        for k, size in enumerate(SIZES):
            a = rng.normal(size=(size, DIM)).astype(np.float32)
            a /= np.sqrt(np.linalg.eigvalsh(a.T @ a / size).max())  # the largest curvature is 1
            b = (a @ rng.normal(size=DIM) * 2 + rng.normal(size=size)).astype(np.float32)
            self.data.append((np.column_stack([a, b]), np.zeros(size, np.int32)))
            a, b = a.astype(np.float64), b.astype(np.float64)
            self.stored.append(alone(folder / str(k), str(k), *self.data[k]))
            self.hessian.append(a.T @ a / size)
            self.minimum.append(np.linalg.solve(a.T @ a, a.T @ b))
        self.share = np.array(SIZES) / sum(SIZES)

    def steps(self, k, num):
        """M with y_K − x = M (w_k* − x) after `num` steps."""
        return np.eye(DIM) - np.linalg.matrix_power(np.eye(DIM) - RATE * self.hessian[k], num)

    def solve(self, matrices):
        """The x with Σ matrices_k (w_k* − x) = 0."""
        right = sum(m @ w for m, w in zip(matrices, self.minimum, strict=True))
        return np.linalg.solve(sum(matrices), right)

    @property
    def optimum(self):
        """The minimum of Σ p_k F_k."""
        return self.solve([p * h for p, h in zip(self.share, self.hessian, strict=True)])


@pytest.fixture(scope="module")
def quadratics(tmp_path_factory):
    return Quadratics(tmp_path_factory.mktemp("quadratics"))


@pytest.fixture(scope="module")
def play(quadratics, client_input):
    """(kind, num_rounds, steps of each client, ...) -> (parameters after the rounds, state of each round)."""
    built = {}

    def run(
        kind,
        num_rounds,
        num_steps,
        start=None,
        rate=RATE,
        taking_part=lambda t: range(len(SIZES)),
        rates=None,
        **changes,
    ):
        key = kind, *sorted(changes.items())
        if key not in built:
            built[key] = computations_of(ClientSettings(kind=kind, learning_rate=rate, batch_size=100, **changes))
        computations = built[key]
        params = np.zeros(DIM, np.float32) if start is None else np.asarray(start, np.float32)
        state, kept, path = (
            computations.initialize(params),
            np.zeros((len(SIZES), DIM), np.float32),
            [],
        )
        for t in range(num_rounds):
            clients = list(taking_part(t))
            given = []
            for k in clients:
                order = np.tile(np.arange(SIZES[k]), num_steps[k])
                more = {"kept": kept[k]} if CLIENT_UPDATES[kind].kept else {}
                weight, share = np.float32(SIZES[k]), np.float32(quadratics.share[k])
                given.append(
                    client_input(
                        *quadratics.data[k],
                        order,
                        weight=weight,
                        share=share,
                        learning_rate=np.float32(rates[t] if rates else rate),
                        **more,
                    )
                )
            state, results = next_round(computations, state, given)
            for k, result in zip(clients, results, strict=True):
                assert result.num_steps == num_steps[k]
                kept[k] = 0 if result.kept is None else result.kept
            path.append((state, kept.copy(), results))
        return state.params.astype(np.float64), path

    return run


def computations_of(client):
    training = LocalTraining((DIM + 1,), 1, DIM, 100, CLIENT_UPDATES[client.kind](client), loss=squared)
    optimizer = SERVER_OPTIMIZERS["sgd"](ServerOptimizerSettings())
    aggregator = mean(AggregatorSettings(), len(SIZES))
    return build_round([Architecture(residual, ((DIM,),))], training, aggregator, optimizer, False)


def residual(params, x, seed):
    (w,) = params
    return x[:, :DIM] @ w[:, None] - x[:, DIM:], 0.0


def squared(labels, residuals):
    del labels
    return tf.square(residuals[:, 0]) / 2


# Fixed points.

SAME, UNEQUAL = (10, 10, 10), (2, 9, 20)


@pytest.mark.parametrize("num_steps", [SAME, UNEQUAL], ids=["same", "unequal"])
def test_fedavg_ends_at_its_biased_fixed_point(num_steps, quadratics, play):
    # x stays if Σ p_k (y_k − x) = Σ p_k M_k (w_k* − x) = 0, which is not the minimum of Σ p_k F_k.
    matrices = [p * quadratics.steps(k, num_steps[k]) for k, p in enumerate(quadratics.share)]
    fixed = quadratics.solve(matrices)
    assert np.linalg.norm(fixed - quadratics.optimum) > 0.05
    found, _ = play("sgd", 3, num_steps, fixed)
    np.testing.assert_allclose(found, fixed, atol=1e-5)
    # From another start x approaches it, at the speed that Σ p_k M_k gives.
    away = fixed + np.array([1.0, -2.0, 0.5])
    found, _ = play("sgd", 3, num_steps, away)
    shrink = np.linalg.matrix_power(np.eye(DIM) - sum(matrices), 3)
    np.testing.assert_allclose(found, fixed + shrink @ (away - fixed), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("scaffold", {"option": "I"}),
        # The vectors of the clients that are left are added up alike.
        pytest.param("scaffold", {"option": "II"}, marks=pytest.mark.slow),
        ("feddyn", {"alpha": 0.5}),
    ],
    ids=["scaffold I", "scaffold II", "feddyn"],
)
@pytest.mark.parametrize("num_steps", [SAME, UNEQUAL], ids=["same", "unequal"])
@pytest.mark.parametrize("part", [False, True], ids=["all", "two of three"])
def test_scaffold_and_feddyn_end_at_the_minimum(kind, changes, num_steps, part, quadratics, play):
    taking_part = (lambda t: sorted([t % 3, (t + 1) % 3])) if part else (lambda t: range(3))
    found, path = play(kind, 150 if part else 80, num_steps, taking_part=taking_part, **changes)
    np.testing.assert_allclose(found, quadratics.optimum, atol=5e-5)
    # At the minimum, every client's vector is its own gradient, and the server's vector is their mean, which is zero.
    server, kept, _ = path[-1]
    gradients = [h @ (found - w) for h, w in zip(quadratics.hessian, quadratics.minimum, strict=True)]
    np.testing.assert_allclose(kept, gradients, atol=2e-4)
    np.testing.assert_allclose(server.shared, 0, atol=2e-4)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("scaffold", {"option": "I"}), ("scaffold", {"option": "II"}), ("feddyn", {"alpha": 0.5})],
    ids=["scaffold I", "scaffold II", "feddyn"],
)
def test_when_a_client_leaves_the_others_end_at_their_own_minimum(kind, changes, quadratics, settings_of):
    local = {f"federate.client.{name}": value for name, value in changes.items()}
    work = {"kind": "per_client", "by_client": {str(k): n for k, n in enumerate(UNEQUAL)}}
    chosen = {"kind": kind, "learning_rate": RATE, "batch_size": 100}
    settings = settings_of(
        {
            **{f"federate.client.{name}": value for name, value in chosen.items()},
            **{f"federate.local_work.{name}": value for name, value in work.items()},
            **local,
        }
    )
    clients = {
        str(k): Client(quadratics.stored[k], n, n, n / sum(SIZES), np.zeros(0, np.float32), np.array([n]))
        for k, n in enumerate(SIZES)
    }
    none = np.zeros((0, DIM + 1), np.float32), np.zeros(0, np.int32)
    model = tf.keras.Sequential([tf.keras.layers.Dense(1, use_bias=False, input_shape=(DIM,))])
    computations = computations_of(settings.federate.client)

    def runner(without=(), absent=()):
        left = {client: info for client, info in clients.items() if client not in without}
        total = sum(info.share for info in left.values())
        left = {client: replace(info, share=info.share / total) for client, info in left.items()}
        cohort = Cohort(left, {}, (DIM + 1,), 1, "none", "", *none)
        phase, validate = Phase("federate", 1, 200), lambda params: (0.0, 0.0)
        return Runner(settings, cohort, model, phase, computations, absent=absent, validate=validate)

    def after(stepper, state, rounds, excluded=()):
        for t in rounds:
            state = stepper.step(state, t, excluded).state
        return state

    everybody = runner()
    there = after(everybody, everybody.fresh(), range(1, 101))
    np.testing.assert_allclose(there.params, quadratics.optimum, atol=5e-5)
    # The minimum of p_0 F_0 + p_2 F_2; a common factor of both does not matter.
    own = [
        p * h if k != 1 else 0 * h for k, (p, h) in enumerate(zip(quadratics.share, quadratics.hessian, strict=True))
    ]
    expected, rest = quadratics.solve(own), range(101, 201)
    assert np.linalg.norm(expected - quadratics.optimum) > 0.1
    smaller = runner(without="1")
    ways = {
        "excluded by the guard": after(everybody, there, rest, {"1"}),
        "absent in a replay": after(runner(absent="1"), there, rest),
        "excluded in a replay": after(smaller, smaller.settled(there, ["0", "2"]), rest),
    }
    for way, state in ways.items():
        np.testing.assert_allclose(state.params, expected, atol=5e-5, err_msg=way)
        np.testing.assert_allclose(state.shared, 0, atol=2e-4, err_msg=way)


def test_fednova_ends_where_every_step_counts_the_same(quadratics, play):
    # Σ p_k / K_k · M_k (w_k* − x) = 0: the weights of equation 6, with ‖a_k‖₁ = K_k.
    matrices = [p / UNEQUAL[k] * quadratics.steps(k, UNEQUAL[k]) for k, p in enumerate(quadratics.share)]
    fixed = quadratics.solve(matrices)
    found, _ = play("fednova", 3, UNEQUAL, fixed)
    np.testing.assert_allclose(found, fixed, atol=1e-5)
    moved, _ = play("sgd", 3, UNEQUAL, fixed)
    assert np.linalg.norm(moved - fixed) > 0.01


# One round by hand.


def test_fednova_weights_of_one_round(quadratics, play):
    num_steps, start = (1, 3, 8), np.array([1.0, -2.0, 0.5])
    found, path = play("fednova", 1, num_steps, start)
    deltas = [quadratics.steps(k, n) @ (quadratics.minimum[k] - start) for k, n in enumerate(num_steps)]
    p = quadratics.share
    effective = p @ num_steps
    expected = start + effective * sum(p[k] / num_steps[k] * deltas[k] for k in range(3))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # The recorded update is still local − global.
    for result, delta in zip(path[0][2], deltas, strict=True):
        np.testing.assert_allclose(result.update, delta, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_fednova_normaliser_is_the_closed_form(momentum, mu, play):
    num_steps, eta = (1, 4, 11), RATE
    _, path = play("fednova", 1, num_steps, momentum=momentum, fednova_mu=mu)
    for result, n in zip(path[0][2], num_steps, strict=True):
        if momentum and mu:
            continue  # no closed form in the paper: the next test
        # Section 4.1: [τ − ρ(1 − ρ^τ)/(1 − ρ)]/(1 − ρ), and [1 − (1 − ημ)^τ]/(ημ).
        expected = float(n)
        if momentum:
            expected = (n - momentum * (1 - momentum**n) / (1 - momentum)) / (1 - momentum)
        if mu:
            expected = (1 - (1 - eta * mu) ** n) / (eta * mu)
        assert result.normalizer == pytest.approx(expected, rel=1e-5)


def test_fednova_normaliser_with_momentum_and_pull_adds_up_gradients_of_one(play):
    num_steps, momentum, mu = (1, 4, 11), 0.6, 0.8
    _, path = play("fednova", 1, num_steps, momentum=momentum, fednova_mu=mu)
    for result, n in zip(path[0][2], num_steps, strict=True):
        # The same recursion in one dimension, for each unit gradient on its own.
        total = 0.0
        for one in range(n):
            w = v = 0.0
            for t in range(n):
                v = momentum * v + (1.0 if t == one else 0.0) + mu * w
                w -= RATE * v
            total += -w / RATE
        assert result.normalizer == pytest.approx(total, rel=1e-4)


def test_fednova_with_equal_work_is_fedavg(play):
    for changes in ({}, {"momentum": 0.5}):
        nova, _ = play("fednova", 5, SAME, **changes)
        plain, _ = play("sgd", 5, SAME, **changes)
        np.testing.assert_allclose(nova, plain, atol=1e-6)


def test_fedprox_round_is_gradient_descent_on_the_pulled_objective(quadratics, play):
    mu, start = 1.5, np.array([1.0, -2.0, 0.5])
    found, _ = play("fedprox", 1, UNEQUAL, start, mu=mu)
    expected = start.copy()
    for k, n in enumerate(UNEQUAL):
        # F_k + μ/2 ‖y − x‖² has the Hessian H + μ and the minimum (H + μ)⁻¹ (H w* + μ x).
        hessian = quadratics.hessian[k] + mu * np.eye(DIM)
        best = np.linalg.solve(hessian, quadratics.hessian[k] @ quadratics.minimum[k] + mu * start)
        shrink = np.linalg.matrix_power(np.eye(DIM) - RATE * hessian, n)
        expected += quadratics.share[k] * (best + shrink @ (start - best) - start)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_fedprox_limits(quadratics, play):
    plain, _ = play("sgd", 5, SAME)
    np.testing.assert_array_equal(play("fedprox", 5, SAME, mu=0.0)[0], plain)
    # μ → ∞: after any number of steps ‖y − x‖ ≤ ‖∇F(x)‖ / μ, because the pulled objective is μ-strongly convex.
    start = np.array([1.0, -2.0, 0.5])
    gradient = max(np.linalg.norm(h @ (start - w)) for h, w in zip(quadratics.hessian, quadratics.minimum, strict=True))
    for mu in (10.0, 100.0, 1000.0):
        found, _ = play("fedprox", 1, (50, 50, 50), start, rate=1 / (mu + 1), mu=mu)
        assert np.linalg.norm(found - start) <= gradient / mu + 1e-6


def test_mimelite_is_momentum_sgd_on_the_whole_problem_with_one_step_a_round(quadratics, play):
    # y = x − η(g_k + βm), averaged: x⁺ = x − η(Σ p_k g_k + βm); then m ← βm + Σ p_k g_k: heavy-ball momentum.
    beta, x, m = 0.8, np.zeros(DIM), np.zeros(DIM)
    for _ in range(6):
        gradient = sum(
            p * h @ (x - w) for p, h, w in zip(quadratics.share, quadratics.hessian, quadratics.minimum, strict=True)
        )
        x, m = x - RATE * (gradient + beta * m), beta * m + gradient
    found, path = play("mimelite", 6, (1, 1, 1), momentum=beta)
    np.testing.assert_allclose(found, x, atol=1e-5)
    np.testing.assert_allclose(path[-1][0].shared, m, atol=1e-5)


def test_scaffold_with_one_client_is_local_sgd(play):
    # c = c_k from the second round on, and both are zero in the first.
    only = {"taking_part": lambda t: [1]}
    one, path = play("scaffold", 1, SAME, **only)
    plain, _ = play("sgd", 1, SAME, **only)
    np.testing.assert_allclose(one, plain, atol=1e-6)
    # c = p_k c_k, because the others' vectors are still zero.
    np.testing.assert_allclose(path[0][0].shared, path[0][1][1] * SIZES[1] / sum(SIZES), atol=1e-6)


@pytest.mark.parametrize("kind", ["scaffold", "feddyn"])
def test_round_without_a_learning_rate_changes_nothing(kind, play):
    # The last rate is 0, as after 200 rounds with rate 0.05 and decay 0.6: 0.05 · 0.6^200 = 2e-46 is 0 in float32.
    (whole, path), (found, longer) = play(kind, 3, SAME), play(kind, 4, SAME, rates=(RATE, RATE, RATE, 0.0))
    if kind == "scaffold":
        np.testing.assert_array_equal(found, whole)
    np.testing.assert_array_equal(longer[-1][1], path[-1][1])
    np.testing.assert_array_equal(longer[-1][0].shared, path[-1][0].shared)
    assert np.isfinite(found).all()


def test_vectors_of_clients_that_did_not_take_part_stay(play):
    _, path = play("scaffold", 3, SAME, taking_part=lambda t: [t])
    for t, (server, kept, _) in enumerate(path):
        assert [bool(np.any(vector)) for vector in kept] == [k <= t for k in range(3)]
        np.testing.assert_allclose(server.shared, np.array(SIZES) / sum(SIZES) @ kept, atol=1e-6)


# Whole runs against a slow reference: minibatches, uneven work and data, some clients a round.

BASE = {
    "federate.model": "logistic",
    "federate.rounds": 5,
    "federate.checkpoint_every": 2,
    "federate.client.learning_rate": 0.1,
    "federate.client.batch_size": 4,
    "federate.client.weight_decay": 0.02,
    "federate.local_work.kind": "range",
    "federate.local_work.high": 3,
    "federate.sampling.kind": "uniform",
    "federate.sampling.clients_per_round": 3,
}
RUNS = {
    "sgd": {"federate.client.momentum": 0.5},
    "sgd, clipped": {"federate.client.clip_norm": 0.1},
    "fedprox": {"federate.client.mu": 0.8, "federate.client.momentum": 0.5},
    "scaffold": {"federate.client.option": "I"},
    "scaffold, option II": {},
    "scaffold, momentum": {"federate.client.momentum": 0.5},
    "scaffold, momentum and clipped": {"federate.client.momentum": 0.5, "federate.client.clip_norm": 0.1},
    "scaffold, equal weights": {"federate.aggregator.weighting": "uniform"},
    "fednova": {"federate.client.momentum": 0.5},
    "fednova, proximal": {"federate.client.fednova_mu": 0.9},
    "fednova, momentum and proximal": {"federate.client.momentum": 0.5, "federate.client.fednova_mu": 0.9},
    "feddyn": {"federate.client.alpha": 0.3},
    "mimelite": {"federate.client.momentum": 0.6},
}


class Reference:
    """Multinomial logistic regression with the six algorithms as in their papers, one example at a time."""

    def __init__(self, settings, clients, params):
        self.settings, self.clients, self.federate = settings, clients, settings.federate
        self.x = params.astype(np.float64)
        self.sizes = {client: len(clients.data[client][1]) for client in clients.ids}
        uniform = self.federate.aggregator.weighting == "uniform"
        self.weight = {client: 1.0 if uniform else float(size) for client, size in self.sizes.items()}
        self.total = sum(self.weight.values())
        self.c = dict.fromkeys(clients.ids, 0.0)
        self.s = 0.0

    def gradient(self, params, client, batch):
        x, y = self.clients.data[client]
        num_classes, total = self.clients.num_classes, np.zeros_like(params)
        for i in batch:
            features = x[i].astype(np.float64).ravel()
            kernel = params[: len(features) * num_classes].reshape(len(features), num_classes)
            logits = features @ kernel + params[len(features) * num_classes :]
            p = np.exp(logits - logits.max())
            error = p / p.sum() - np.eye(num_classes)[y[i]]
            total += np.concatenate([np.outer(features, error).ravel(), error])
        return total / len(batch)

    def loss_gradient(self, params, client, batch):
        """Returns the gradient with clipping, then weight decay."""
        local = self.federate.client
        g = self.gradient(params, client, batch)
        if local.clip_norm:
            g *= min(1.0, local.clip_norm / np.linalg.norm(g))
        return g + local.weight_decay * params

    def batches(self, client, t):
        rng = client_rng(self.settings.seed, t, client)
        num_epochs, size = epochs(self.federate.local_work, client, rng), self.sizes[client]
        order, step = visits(size, num_epochs, rng), self.federate.client.batch_size
        for epoch in range(num_epochs):
            mine = order[epoch * size : (epoch + 1) * size]
            yield from (mine[i : i + step] for i in range(0, size, step))

    def round(self, t):
        local, x = self.federate.client, self.x
        chosen = sample(self.federate.sampling, self.sizes, self.settings.seed, t)
        eta, kind = local.learning_rate, local.kind
        deltas, steps, new_c, full = {}, {}, {}, {}
        for client in chosen:
            y, velocity, steps[client], total = x.copy(), 0.0, 0, 0.0
            for batch in self.batches(client, t):
                g = self.loss_gradient(y, client, batch)
                total = total + g
                match kind:
                    case "fedprox":
                        g = g + local.mu * (y - x)
                    case "fednova":
                        g = g + local.fednova_mu * (y - x)
                    case "scaffold":
                        g = g - self.c[client] + self.s
                    case "feddyn":
                        g = g - self.c[client] + local.alpha * (y - x)
                    case "mimelite":
                        g = g + local.momentum * self.s
                velocity = (0 if kind == "mimelite" else local.momentum) * velocity + g
                y = y - eta * velocity
                steps[client] += 1
            deltas[client] = y - x
            full[client] = self.gradient(x, client, range(self.sizes[client])) + local.weight_decay * x
            if kind == "scaffold" and local.option == "I":
                new_c[client] = full[client]
            elif kind == "scaffold" and local.momentum:
                new_c[client] = total / steps[client]
            elif kind == "scaffold":
                new_c[client] = self.c[client] - self.s + (x - y) / (steps[client] * eta)
            elif kind == "feddyn":
                new_c[client] = self.c[client] - local.alpha * (y - x)
        here = sum(self.weight[client] for client in chosen)
        average = {client: self.weight[client] / here for client in chosen}
        update = sum(average[client] * deltas[client] for client in chosen)
        match kind:
            case "scaffold" | "feddyn":
                self.s = self.s + sum(
                    self.weight[client] / self.total * (new_c[client] - self.c[client]) for client in chosen
                )
                self.c |= new_c
                if kind == "feddyn":
                    update = update - self.s / local.alpha
            case "mimelite":
                self.s = local.momentum * self.s + sum(average[client] * full[client] for client in chosen)
            case "fednova":
                norms = {client: self.norm(steps[client]) for client in chosen}
                effective = sum(average[client] * norms[client] for client in chosen)
                update = effective * sum(average[client] * deltas[client] / norms[client] for client in chosen)
        self.x = x + update

    def norm(self, n):
        local = self.federate.client
        rho, pull = local.momentum, local.learning_rate * local.fednova_mu
        if rho and pull:
            # The paper has no closed form: the sum of what each gradient of 1 adds up to until the last step.
            norm = 0.0
            for one in range(n):
                away = velocity = 0.0
                for step in range(one, n):
                    velocity = rho * velocity + (step == one) - pull * away
                    away += velocity
                norm += away
            return norm
        if pull:
            return (1 - (1 - pull) ** n) / pull
        return (n - rho * (1 - rho**n) / (1 - rho)) / (1 - rho)


@pytest.fixture(scope="module")
def clients(make_clients):
    return make_clients(sizes=(7, 4, 11, 5))


def load(folder):
    return flatten(tf.keras.models.load_model(folder / "models" / "global.h5", compile=False))


@pytest.fixture(scope="module")
def finished(clients, settings_of, tmp_path_factory):
    """A name of RUNS -> (its settings, its workspace), trained once for all tests."""
    trained = {}

    def train(run):
        if run not in trained:
            settings = settings_of({**BASE, "federate.client.kind": run.partition(",")[0], **RUNS[run]})
            folder = clients.write(tmp_path_factory.mktemp("finished"))
            federate(settings, folder)
            trained[run] = settings, folder
        return trained[run]

    return train


@pytest.mark.parametrize("run", RUNS)
def test_run_is_that_of_the_slow_reference(run, clients, finished):
    settings, folder = finished(run)
    start = flatten(build("logistic", (3, 3, 1), 3, settings.seed))
    reference = Reference(settings, clients, start)
    for t in range(1, 6):
        reference.round(t)
    assert np.linalg.norm(reference.x - start) > 0.05
    np.testing.assert_allclose(load(folder), reference.x, atol=1e-5)


# The server keeps a vector for each client, and a vector of its own. The other kinds keep the same, or nothing.
KEEPING = {"scaffold", "mimelite"}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow] * (kind not in KEEPING))
        for kind in sorted(set(CLIENT_UPDATES) - {"sgd"})
    ],
)
def test_killed_run_ends_with_the_same_bytes(kind, clients, finished, tmp_path):
    settings, whole = finished(kind)

    def kill(row, *_):
        if row["round"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        federate(settings, clients.write(tmp_path), kill)
    federate(settings, tmp_path)
    for name in ("models/global.h5", "reports/federate/rounds.csv", "reports/federate/clients.csv"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("kind", ["scaffold", "feddyn"])
def test_client_that_fails_keeps_its_vector(kind, clients, settings_of, tmp_path):
    # The run is the same as one without the failed client: its share of c stays zero.
    broken = {**clients.data, "02": (np.full_like(clients.data["02"][0], 1e30), clients.data["02"][1])}
    settings = settings_of(
        {
            **BASE,
            "federate.client.kind": kind,
            "federate.sampling.kind": "all",
            "federate.sampling.clients_per_round": 5,
        }
    )
    federate(settings, type(clients)(broken).write(tmp_path / "broken"))
    params = load(tmp_path / "broken")
    assert np.isfinite(params).all()
    reference = Reference(settings, clients, flatten(build("logistic", (3, 3, 1), 3, 0)))
    reference.sizes.pop("02")
    for t in range(1, 6):
        reference.round(t)
    np.testing.assert_allclose(params, reference.x, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kind": "fedprox", "mu": -0.1}, "federate.client.mu must be >= 0"),
        ({"kind": "fedprox", "mu": 40.0}, r"mu must be < 2 \(1 \+ momentum\) / learning_rate = 40"),
        ({"kind": "feddyn", "alpha": 0.0}, "federate.client.alpha must be > 0"),
        ({"kind": "feddyn", "alpha": 41.0}, "alpha must be < 2"),
        ({"kind": "mimelite"}, "momentum must be > 0 with kind mimelite"),
        ({"kind": "scaffold", "option": "III"}, "option must be one of 'I' or 'II'"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(changes, text, settings_of):
    with pytest.raises(Exception, match=text):
        settings_of({f"federate.client.{name}": value for name, value in changes.items()})
