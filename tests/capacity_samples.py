"""A calibration with round numbers."""

from xtra_rl.studies.capacity import case_name


def batch(samples, share, search, forward):
    update = {"sample": 0.01, "encode": 0.1 * share, "search": search, "forward": forward}
    act = {"search": 0.04, "environment": 0.01}
    return {"share": share, "batch": samples, "update": update, "env_step": act, "parameters": 1_000_000}


def calibration():
    row = {"num_blocks": 1, "tasks": 5, "batches": [batch(100, 0.5, 0.3, 0.25), batch(20, 0.1, 0.1, 0.09)]}
    row["measuring"] = {"batch": 20, "update": {"forward": 0.09, "backward": 0.02, "learn overhead": 0.0}}
    for each in row["batches"]:
        each["update"] |= {"backward": 0.0, "learn overhead": 0.0}
    alone = {**row, "tasks": 1, "evaluation_step": 0.02}
    about = {"machine": "a sample", "date": "2026-11-27", "torch": "2.13.0", "scale": "smoke", "num_envs": 2}
    cases = {case_name(1, True): row, case_name(1, False): alone}
    return {**about, "episode_steps": 100.0, "cases": cases}
