"""The tested configurations as a tree of options, one level per knob. numpy only."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PrefixTree:
    """Every beginning of a tested configuration (its first knob, its first two, ...) is a node.

    Nodes are counted level by level, within a level by action id; siblings, which differ in their last option only,
    are neighbours and form a group.
    """

    paths: np.ndarray  # int64 (knobs, actions): the node of each level on the way to a configuration
    groups: np.ndarray  # int64 (nodes,): which siblings a node belongs to, ascending
    starts: np.ndarray  # int64 (groups,): first node of every group

    @classmethod
    def of(cls, shape: tuple[int, ...], actions: np.ndarray) -> "PrefixTree":
        """The tree of ascending `actions` in a space with `shape` options per knob.

        >>> tree = PrefixTree.of((2, 3), np.array([0, 2, 4]))  # (0, 0), (0, 2), (1, 1)
        >>> tree.paths.tolist(), tree.groups.tolist(), tree.starts.tolist()
        ([[0, 0, 1], [2, 3, 4]], [0, 0, 1, 1, 2], [0, 2, 4])
        """
        paths, groups, nodes, families = [], [], 0, 0
        for level in range(len(shape)):
            prefixes, path = np.unique(actions // int(np.prod(shape[level + 1 :])), return_inverse=True)
            parents, group = np.unique(prefixes // shape[level], return_inverse=True)
            paths.append(path + nodes)
            groups.append(group + families)
            nodes, families = nodes + len(prefixes), families + len(parents)
        together = np.concatenate(groups)
        return cls(
            paths=np.stack(paths),
            groups=together,
            starts=np.flatnonzero(np.diff(together, prepend=-1)),
        )

    def log_probabilities(self, logits: np.ndarray) -> np.ndarray:
        """log p of every configuration from a logit per node: (..., nodes) -> (..., actions).

        Each group is a softmax over its siblings, p(option | options before); a configuration's log p is the sum along
        its path. Options that lead to no tested configuration have no node and no probability.
        """
        shifted = logits - np.maximum.reduceat(logits, self.starts, axis=-1)[..., self.groups]
        totals = np.add.reduceat(np.exp(shifted), self.starts, axis=-1)
        conditional = shifted - np.log(totals)[..., self.groups]
        return conditional[..., self.paths].sum(axis=-2)
