"""How many updates each stage makes: what schedules, checks and estimates of cost count with."""

from __future__ import annotations

from omegaconf import DictConfig

from xtra_rl.training.loop import online_updates

_ONLINE = ("env_steps", "warmup_steps", "replay_ratio", "extra_train_steps")


def updates_of(cfg: DictConfig) -> dict[str, int]:
    """Updates by stage, each named as the setting that decides."""
    return {
        "collect.env_steps": _online(cfg.collect),
        "teacher.train_steps": cfg.teacher.train_steps,
        "distill.train_steps": cfg.distill.train_steps,
        "finetune.env_steps": _online(cfg.finetune),
        "behaviour_cloning.train_steps": cfg.behaviour_cloning.train_steps,
        "behaviour_cloning.finetune_steps": cfg.behaviour_cloning.finetune_steps,
    }


def _online(section: DictConfig) -> int:
    return online_updates(**{name: section[name] for name in _ONLINE if name in section})


def check_decay(cfg: DictConfig) -> None:
    """Refuse a cosine that ends within a stage: from there on it would learn nothing, and nothing would say so.

    Raises:
        ValueError: naming the stage, and what to set.
    """
    optim = cfg.optim
    if optim.decay_steps is None:
        if optim.decay == "step":
            raise ValueError(
                "optim.decay_steps=null is the length of each stage, for optim.decay=cosine; not for step"
            )
        return
    end = optim.warmup_steps + optim.decay_steps
    for setting, updates in updates_of(cfg).items():
        if optim.decay == "cosine" and updates > end:
            raise ValueError(
                f"optim.decay_steps={optim.decay_steps}: the learning rate would be zero from update {end} on, and"
                f" {setting} means {updates} updates; optim.decay_steps=null decays over each stage's own"
            )
