"""mctx, the peer that installs everywhere: on our problems, jitted once for each shape.

Its network is EfficientZero's recurrent inference in JAX with the weights of our model, BatchNorm folded and
channels-last, as a JAX user would have it. ``pip install mctx`` brings it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from xtra_rl.kernels.benchmark_models import (
    ANSWERS,
    DISCOUNT,
    LATENT,
    engine,
    network_problem,
    ready_answers,
    table_problem,
)
from xtra_rl.models import WorldModel

#: Rules that mctx has too.
MCTX_RULES = ("puct_siblings", "gumbel")


def has_mctx(device: str = "cpu") -> bool:
    """Whether the peer is installed and runs on this device."""
    if find_spec("mctx") is None or find_spec("jax") is None:
        return False
    import jax

    return (jax.default_backend() == "gpu") == device.startswith("cuda")


def _search(
    rule: str,
    simulations: int,
    params: Any,
    logits: Tensor,
    value: Tensor,
    embedding: Any,
    step: Callable[..., Any],
    discount: float = DISCOUNT,
) -> Callable[[], Any]:
    """A jitted search with ``step(params, action, embedding)``; returns the visit counts as an array.

    The latents of all nodes are returned too: XLA would not store them at all otherwise.
    """
    import jax
    import jax.numpy as jnp
    import mctx

    arrays = jax.tree.map(jnp.asarray, (logits.cpu().numpy(), value.cpu().numpy(), embedding))
    if rule == "gumbel":
        policy = partial(mctx.gumbel_muzero_policy, gumbel_scale=0.0)
    else:
        policy = partial(
            mctx.muzero_policy, dirichlet_fraction=0.0, qtransform=mctx.qtransform_by_parent_and_siblings
        )

    def recurrent(params: Any, key: Any, action: Any, embedding: Any) -> tuple[Any, Any]:
        reward, value, logits, following = step(params, action, embedding)
        output = mctx.RecurrentFnOutput(
            reward=reward, discount=jnp.full_like(value, discount), prior_logits=logits, value=value
        )
        return output, following

    @jax.jit
    def run(params: Any, key: Any, logits: Any, value: Any, embedding: Any) -> tuple[Any, Any]:
        root = mctx.RootFnOutput(prior_logits=logits, value=value, embedding=embedding)
        output = policy(params, key, root, recurrent, num_simulations=simulations)
        tree = output.search_tree
        return tree.summary().visit_counts, tree.embeddings

    key = jax.random.PRNGKey(0)
    return lambda: jax.block_until_ready(run(params, key, *arrays))[0]


def trivial(rule: str, simulations: int, batch: int, *, latents: bool) -> Callable[[], Any]:
    """mctx with the trivial model."""
    import jax.numpy as jnp
    import numpy as np

    ready = ready_answers(batch)
    root = ready[0]
    params = tuple(
        jnp.asarray(np.stack([part.numpy() for part in parts])) for parts in zip(*ready[1:], strict=True)
    )
    height, width, channels = LATENT[1], LATENT[2], LATENT[0]
    shape = (batch, height, width, channels) if latents else (batch, 1)
    embedding = {
        "turn": np.zeros(batch, np.int32),
        "latent": np.random.default_rng(0).random(shape, np.float32),
    }

    def step(params: Any, action: Any, embedding: Any) -> tuple[Any, ...]:
        # Any of the answers will do: only the time counts here.
        index = embedding["turn"][0] % (ANSWERS - 1)
        following = {"turn": embedding["turn"] + 1, "latent": embedding["latent"]}
        return (*(part[index] for part in params), following)

    return _search(rule, simulations, params, root.prior_logits, root.value, embedding, step)


def table(rule: str, simulations: int, batch: int) -> Callable[[], Any]:
    """mctx on :func:`~benchmark_models.table_problem`."""
    import jax.numpy as jnp

    problem, tables = table_problem(batch, "cpu")
    params = {name: jnp.asarray(part.numpy()) for name, part in tables.items()}

    def step(params: Any, action: Any, state: Any) -> tuple[Any, ...]:
        following = params["next_state"][state, action]
        return (
            params["reward"][state, action],
            params["value"][following],
            params["prior_logits"][following],
            following,
        )

    state = tables["root"].numpy()
    return _search(rule, simulations, params, problem.prior_logits, problem.value, state, step, discount=0.5)


def network(rule: str, simulations: int, batch: int, model: WorldModel) -> Callable[[], Any]:
    """mctx with EfficientZero's network."""
    problem = network_problem(engine(model, "cpu"), batch, "cpu")
    embedding = {
        "latent": problem.embedding["latent"].permute(0, 2, 3, 1).contiguous().numpy(),
        "hidden": problem.embedding["hidden"].numpy(),
        "cell": problem.embedding["cell"].numpy(),
        "depth": torch.zeros(batch, dtype=torch.int32).numpy(),
    }
    step = partial(recurrent_inference, horizon=model.value_prefix_horizon)
    return _search(rule, simulations, weights_of(model), problem.prior_logits, problem.value, embedding, step)


def weights_of(model: WorldModel) -> dict[str, Any]:
    """Folded weights of a model with EfficientZero's default networks."""
    import jax.numpy as jnp

    parts = engine(model, "cpu")._parts
    transition, prediction, head = (parts[name] for name in ("transition", "prediction", "reward_head"))

    def conv(layer: Any) -> tuple[Any, Any]:
        kernel = layer.weight.permute(2, 3, 1, 0).contiguous()
        return jnp.asarray(kernel.numpy()), jnp.asarray(layer.bias.numpy())

    def linear(layer: Any) -> tuple[Any, Any]:
        return jnp.asarray(layer.weight.t().contiguous().numpy()), jnp.asarray(layer.bias.numpy())

    def blocks(stack: Any) -> list[Any]:
        return [[conv(layer) for layer in (block.conv1, block.conv2)] for block in stack]

    plane = transition._plane_map(torch.zeros(1, *LATENT))[0].permute(1, 2, 0).contiguous()
    return {
        "conv": conv(transition.conv),
        "plane": jnp.asarray(plane.numpy()),
        "actions": jnp.asarray(transition.actions.numpy()),
        "dynamics": blocks(transition.blocks),
        "prediction": blocks(prediction.blocks),
        "heads": [linear(layer) for layer in (prediction.squeeze, prediction.hidden, prediction.out)],
        "reward": [linear(layer) for layer in (head.squeeze, head.gates, head.hidden, head.out)],
        "norm": (jnp.asarray(head.scale.numpy()), jnp.asarray(head.shift.numpy())),
    }


def recurrent_inference(params: Any, action: Any, embedding: Any, *, horizon: int) -> tuple[Any, ...]:
    """Reward, value, prior logits and next embedding: what ``InferenceModel.recurrent_inference`` computes."""
    import jax
    import jax.numpy as jnp

    def conv(x: Any, weights: Any) -> Any:
        layout = ("NHWC", "HWIO", "NHWC")
        out = jax.lax.conv_general_dilated(x, weights[0], (1, 1), "SAME", dimension_numbers=layout)
        return out + weights[1]

    def residual(x: Any, stack: Any) -> Any:
        for first, second in stack:
            x = jax.nn.relu(conv(jax.nn.relu(conv(x, first)), second) + x)
        return x

    def linear(x: Any, weights: Any) -> Any:
        return x @ weights[0] + weights[1]

    def flat(x: Any, squeeze: Any) -> Any:
        return jax.nn.relu(linear(x, squeeze)).reshape(x.shape[0], -1)

    def decode(logits: Any) -> Any:
        size = logits.shape[-1] // 2
        y = jax.nn.softmax(logits) @ jnp.arange(-size, size + 1, dtype=logits.dtype)
        u = jnp.abs(y) + 1.001
        root = 2 * u / (jnp.sqrt(1 + 0.004 * u) + 1)
        return jnp.sign(y) * (jnp.square(root) - 1)

    keep = (embedding["depth"] % horizon != 0)[:, None]
    hidden, cell = embedding["hidden"] * keep, embedding["cell"] * keep
    latent = embedding["latent"]
    code = params["actions"][action][:, None, None, None] * params["plane"]
    latent = residual(jax.nn.relu(conv(latent, params["conv"]) + code + latent), params["dynamics"])

    squeeze, gates, head_hidden, head_out = params["reward"]
    mixed = linear(jnp.concatenate([flat(latent, squeeze), hidden], 1), gates)
    remember, forget, show, candidate = jnp.split(mixed, 4, 1)
    cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(remember) * jnp.tanh(candidate)
    hidden = jax.nn.sigmoid(show) * jnp.tanh(cell)
    normed = jax.nn.relu(hidden * params["norm"][0] + params["norm"][1])
    reward = decode(linear(jax.nn.relu(linear(normed, head_hidden)), head_out))

    squeeze, head_hidden, head_out = params["heads"]
    shared = flat(residual(latent, params["prediction"]), squeeze)
    logits = linear(jax.nn.relu(linear(shared, head_hidden)), head_out)
    actions = params["actions"].shape[0]
    following = {"latent": latent, "hidden": hidden, "cell": cell, "depth": embedding["depth"] + 1}
    return reward, decode(logits[:, actions:]), logits[:, :actions], following
