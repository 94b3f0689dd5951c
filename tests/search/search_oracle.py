"""Slow tree search with node objects in float64, written from the formulas: an oracle for the batched search.

It works on one tree at a time, recomputes every statistic from the returns that were stored in each node, and
shares no code with ``xtra_rl.search``.
"""

from __future__ import annotations

import math

from table_world import TableWorld


class Node:
    """A node remembers the returns seen from it; everything else is derived."""

    def __init__(self, world: TableWorld, state: int, reward: float = 0.0, illegal: list[bool] | None = None):
        self.state = state
        self.reward = reward
        self.raw_value = world.value[state].item()
        self.logits = world.prior_logits[state].tolist()
        if illegal is not None:
            self.logits = [-math.inf if bad else x for x, bad in zip(self.logits, illegal, strict=True)]
        self.prior = softmax(self.logits)
        self.returns = [self.raw_value]
        self.children: dict[int, Node] = {}

    @property
    def visits(self) -> int:
        return len(self.returns)

    @property
    def value(self) -> float:
        return sum(self.returns) / len(self.returns)

    def q(self, action: int, discount: float) -> float:
        child = self.children[action]
        return child.reward + discount * child.value

    def child_visits(self, action: int) -> int:
        return self.children[action].visits if action in self.children else 0

    def all_q(self, discount: float) -> list[float]:
        """Q of every expanded node below this one."""
        found = []
        for action, child in self.children.items():
            found += [self.q(action, discount), *child.all_q(discount)]
        return found


def softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    return [w / sum(weights) for w in weights]


def best(scores: list[float]) -> int:
    return scores.index(max(scores))


def simulate(world: TableWorld, root: Node, choose, discount: float, illegal: list[bool] | None) -> None:
    """One simulation; ``choose(path)`` picks an action in the last node of ``path``; ``illegal`` below the root."""
    path = [root]
    while True:
        action = choose(path)
        node = path[-1]
        if action not in node.children:
            break
        path.append(node.children[action])
    reward = world.reward[node.state, action].item()
    leaf = Node(world, int(world.next_state[node.state, action]), reward, illegal)
    node.children[action] = leaf
    value = leaf.raw_value
    for child, parent in zip([leaf, *reversed(path[1:])], reversed(path), strict=True):
        value = child.reward + discount * value
        parent.returns.append(value)


def puct(
    world: TableWorld,
    state: int,
    *,
    num_simulations: int,
    discount: float,
    invalid: list[bool],
    noise: list[float] | None = None,
    fraction: float = 0.25,
    pb_c_init: float = 1.25,
    pb_c_base: float = 19652.0,
    normalization: str = "tree",
    value_delta_max: float = 0.01,
    pick=best,
    mask_below_root: bool = False,
) -> Node:
    """pUCT search from one state; ``pick(scores)`` chooses the action of a node."""
    root = Node(world, state)
    root.prior = softmax([-math.inf if bad else x for x, bad in zip(root.logits, invalid, strict=True)])
    if noise is not None:
        root.prior = [(1 - fraction) * p + fraction * n for p, n in zip(root.prior, noise, strict=True)]

    def mean_q(path: list[Node]) -> float:
        node = path[-1]
        visited = [node.q(a, discount) for a in node.children]
        if len(path) == 1:
            return sum(visited) / len(visited)
        return (mean_q(path[:-1]) + sum(visited)) / (len(visited) + 1)

    def normalized(path: list[Node], action: int, bounds: list[float]) -> float:
        node = path[-1]
        visited = action in node.children
        if normalization == "tree":
            q = node.q(action, discount) if visited else mean_q(path)
            return (q - min(bounds)) / max(max(bounds) - min(bounds), value_delta_max)
        if not visited:
            return 0.0
        return (node.q(action, discount) - min(bounds)) / max(max(bounds) - min(bounds), 1e-8)

    def choose(path: list[Node]) -> int:
        node = path[-1]
        rate = math.sqrt(node.visits) * (pb_c_init + math.log((node.visits + pb_c_base + 1) / pb_c_base))
        if normalization == "tree":
            bounds = root.all_q(discount)
        else:
            bounds = [node.value, *(node.q(a, discount) for a in node.children)]
        scores = []
        for action, prior in enumerate(node.prior):
            score = prior * rate / (1 + node.child_visits(action))
            if root.children:
                score += normalized(path, action, bounds)
            masked = node is root or mask_below_root
            scores.append(-math.inf if masked and invalid[action] else score)
        return pick(scores)

    for _ in range(num_simulations):
        simulate(world, root, choose, discount, invalid if mask_below_root else None)
    return root


def gumbel(
    world: TableWorld,
    state: int,
    *,
    num_simulations: int,
    discount: float,
    invalid: list[bool],
    gumbel: list[float],
    max_considered: int,
    value_scale: float = 0.1,
    maxvisit_init: float = 50.0,
    floor: float = 1e-8,
    pick=best,
    mask_below_root: bool = False,
) -> tuple[Node, list[float], int]:
    """Gumbel search from one state: the root, the improved policy and the chosen action; ``pick`` as above."""
    root = Node(world, state)
    root.logits = [-math.inf if bad else x for x, bad in zip(root.logits, invalid, strict=True)]
    root.prior = softmax(root.logits)
    actions = range(len(root.logits))

    def sigma(node: Node) -> list[float]:
        total = sum(node.child_visits(a) for a in actions)
        mass = sum(node.prior[a] for a in node.children)
        mixed = node.raw_value
        if node.children:
            mean = sum(node.prior[a] * node.q(a, discount) for a in node.children) / mass
            mixed = (node.raw_value + total * mean) / (1 + total)
        q = [node.q(a, discount) if a in node.children else mixed for a in actions]
        scale = (maxvisit_init + max(node.child_visits(a) for a in actions)) * value_scale
        return [scale * (x - min(q)) / max(max(q) - min(q), floor) for x in q]

    def root_scores(count: int) -> list[float]:
        transformed = sigma(root)
        eligible = [root.child_visits(a) == count and not invalid[a] for a in actions]
        return [gumbel[a] + root.logits[a] + transformed[a] if eligible[a] else -math.inf for a in actions]

    def choose(path: list[Node]) -> int:
        node = path[-1]
        if node is root:
            return pick(root_scores(schedule[root.visits - 1]))
        improved = softmax([x + s for x, s in zip(node.logits, sigma(node), strict=True)])
        scores = [improved[a] - node.child_visits(a) / node.visits for a in actions]
        return pick([-math.inf if mask_below_root and invalid[a] else scores[a] for a in actions])

    schedule = halving_schedule(min(max_considered, invalid.count(False)), num_simulations)
    for _ in range(num_simulations):
        simulate(world, root, choose, discount, invalid if mask_below_root else None)
    policy = softmax([x + s for x, s in zip(root.logits, sigma(root), strict=True)])
    return root, policy, best(root_scores(max(root.child_visits(a) for a in actions)))


def halving_schedule(considered: int, num_simulations: int) -> list[int]:
    """Visits that an action must have to be considered, from the visit counts of imagined, equal actions."""
    if considered == 1:
        return list(range(num_simulations))
    phases = math.ceil(math.log2(considered))
    visits, alive, order = [0] * considered, considered, []
    while len(order) < num_simulations:
        rounds = max(1, int(num_simulations / (phases * alive)))
        for arm in list(range(alive)) * rounds:
            order.append(visits[arm])
            visits[arm] += 1
        alive = max(alive // 2, 2)
    return order[:num_simulations]
