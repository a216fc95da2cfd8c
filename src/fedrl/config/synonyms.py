"""Names of other libraries and of earlier versions, with today's names, for error messages.

No configuration is accepted with such a name.
"""

from __future__ import annotations

from collections.abc import Iterable

from fedrl.core.errors import nearest

SYNONYMS: dict[str, tuple[str, ...]] = {
    # other libraries of reinforcement learning and of federated learning
    "n_steps": ("num_steps",),
    "rollout_length": ("num_steps",),
    "n_envs": ("num_envs",),
    "update_epochs": ("num_epochs",),
    "n_epochs": ("num_epochs",),
    "n_minibatches": ("num_minibatches",),
    "clip_range": ("clip",),
    "clip_coef": ("clip",),
    "clip_eps": ("clip",),
    "ent_coef": ("entropy_coef",),
    "vf_coef": ("value_coef",),
    "lambda": ("gae_lambda",),
    "lr": ("learning_rate",),
    "max_grad_norm": ("max_norm",),
    "num_clients": ("agents",),
    "clients": ("agents",),
    "num_rounds": ("rounds",),
    "fedavg": ("mean",),
    # earlier versions of fedrl: keys
    "instances": ("num_envs",),
    "steps": ("num_steps",),
    "epochs": ("num_epochs",),
    "minibatch_count": ("num_minibatches",),
    "discount": ("gamma",),
    "trace": ("gae_lambda", "availability_trace"),
    "value_weight": ("value_coef",),
    "entropy_weight": ("entropy_coef",),
    "exploration": ("epsilon",),
    "best": ("reference_return",),
    "keep": ("local",),
    "only": ("trainable",),
    "admission": ("upload_budget",),
    "upper_optimizer": ("global_optimizer",),
    "wait_for": ("buffer_size",),
    "buffer": ("buffer_size",),
    "late": ("stragglers",),
    "usual": ("typical",),
    "share": ("fraction",),
    "times": ("slowdown",),
    # earlier versions of fedrl: components
    "agnostic": ("afl",),
    "q_fair": ("q_ffl",),
    "by_settings": ("weight_by_environment",),
    "by_diversity": ("weight_by_diversity",),
    "lazy": ("lag",),
    "one_way": ("download_only",),
    "control_variates": ("scaffold",),
    "by_size": ("partition_by_size",),
    "threshold": ("hard_threshold",),
    "weigh_by_improvement": ("weight_by_improvement",),
    "weigh_by_signal": ("weight_by_signal",),
    "weigh_by_capacity": ("weight_by_capacity",),
    "proximal": ("fedprox",),
    "corrected": ("add_correction",),
    "interpolated": ("interpolate",),
    "gated": ("accept_if_better",),
    "adapting": ("freeze_except",),
    "embedded": ("with_embedding",),
    "steady": ("constant",),
    "ramp": ("linear",),
    "from_loss": ("adacomm",),
    "balanced": ("proportional_to_speed",),
    "balanced_by_time": ("proportional_to_measured_speed",),
    "allocated": ("water_filling",),
    "by_priority": ("greedy",),
    "by_utility": ("oort",),
    "between": ("uniform_between",),
}


def known_as(name: str, allowed: Iterable[str]) -> str:
    """Return a hint with today's name for a synonym, or else the nearest valid name; and all valid names.

    >>> known_as("n_steps", ["num_envs", "num_steps"])
    "Here it is called 'num_steps'. Allowed: num_envs, num_steps."
    >>> known_as("num_step", ["num_envs", "num_steps"])
    "Did you mean 'num_steps'? Allowed: num_envs, num_steps."
    """
    names = sorted(allowed)
    here = next((each for each in SYNONYMS.get(name, ()) if each in names), None)
    if here is None:
        return nearest(name, names)
    return f"Here it is called {here!r}. Allowed: {', '.join(names)}."
