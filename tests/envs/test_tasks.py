"""Facts about the task registry, its table and its sets."""

from __future__ import annotations

import pytest
import torch
from ale_py import ALEInterface, LoggerMode, roms

from xtra_rl.envs import TASK_SETS, get_task, list_tasks, register_task, task_set, unregister_task
from xtra_rl.envs.scores import ATARI_ROWS


def test_legal_actions_are_ales_minimal_action_sets():
    ALEInterface.setLoggerMode(LoggerMode.Error)
    for name, row in ATARI_ROWS.items():
        ale = ALEInterface()
        ale.loadROM(roms.get_rom_path(name))
        assert sorted(action.value for action in ale.getMinimalActionSet()) == list(row.action_ids), name


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("MsPacman", "ms_pacman"),
        ("ms_pacman", "ms_pacman"),
        ("BankHeist", "bank_heist"),
        ("UpNDown", "up_n_down"),
        ("DEMON-ATTACK", "demon_attack"),
        ("Riverraid", "riverraid"),
        ("wizard of wor", "wizard_of_wor"),
    ],
)
def test_paper_and_ale_spellings_name_the_same_task(spelling, name):
    assert get_task(spelling).name == name


def test_unknown_task_names_known_tasks_and_the_nearest():
    with pytest.raises(
        ValueError, match=r"'asault' is unknown; did you mean 'assault'\?.*alien.*yars_revenge"
    ):
        get_task("asault")
    with pytest.raises(ValueError, match="task set 'mazes' is unknown; did you mean 'maze'"):
        task_set("mazes")
    with pytest.raises(ValueError, match=r"^task 'zzz' is unknown\. Known: alien, .*\.$"):
        get_task("zzz")


def test_action_mask_of_amidar():
    expected = [1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    assert get_task("Amidar").action_mask.int().tolist() == expected


def test_task_sets_have_the_papers_sizes_and_overlaps():
    sizes = {name: len(tasks) for name, tasks in TASK_SETS.items()}
    assert sizes["shooter"] == sizes["maze"] == sizes["diverse_finetune"] == 5
    assert (sizes["diverse8"], sizes["diverse4"], sizes["diverse2"]) == (8, 4, 2)
    assert sizes["paper"] == 18
    assert sizes["atari100k"] == 26
    assert set(TASK_SETS["diverse2"]) < set(TASK_SETS["diverse4"]) < set(TASK_SETS["diverse8"])
    assert not set(TASK_SETS["diverse8"]) & set(TASK_SETS["diverse_finetune"])
    assert not set(TASK_SETS["diverse8"]) & set(TASK_SETS["atari100k"])
    for tasks in TASK_SETS.values():
        assert len(set(tasks)) == len(tasks)
        assert set(tasks) <= set(list_tasks())


def test_leave_one_out_drops_the_target_only():
    assert task_set("shooter", without="DemonAttack") == ("assault", "carnival", "centipede", "phoenix")
    assert task_set("diverse8", without="assault") == TASK_SETS["diverse8"]
    with pytest.raises(ValueError, match="did you mean 'phoenix'"):
        task_set("shooter", without="phenix")


def test_scores_reproduce_a_published_human_normalised_score():
    # XTRA, table 3: Assault 1294.55 has HNS 2.06 and Phoenix 14579.75 has 2.13.
    for name, score, expected in (("Assault", 1294.55, 2.06), ("Phoenix", 14579.75, 2.13)):
        task = get_task(name)
        assert (score - task.random_score) / (task.human_score - task.random_score) == pytest.approx(
            expected, abs=0.006
        )


def test_registered_task_is_found_and_can_be_removed():
    task = register_task("unit_test_task", lambda n, s, t: None, num_actions=4, action_ids=(0, 2))
    try:
        assert get_task("UnitTestTask") is task
        assert torch.equal(task.action_mask, torch.tensor([True, False, True, False]))
        with pytest.raises(ValueError, match="already registered"):
            register_task("UnitTestTask", lambda n, s, t: None, num_actions=4)
        register_task("unit_test_task", lambda n, s, t: None, num_actions=3, overwrite=True)
        assert get_task("unit_test_task").num_actions == 3
    finally:
        unregister_task("unit_test_task")
    with pytest.raises(ValueError, match="is unknown"):
        get_task("unit_test_task")


def test_built_in_tasks_cannot_be_removed_or_taken():
    with pytest.raises(ValueError, match="built in"):
        unregister_task("pong")
    with pytest.raises(ValueError, match="already registered as 'ms_pacman'"):
        register_task("MsPacman", lambda n, s, t: None, num_actions=4)
    with pytest.raises(ValueError, match="already registered as 'pong'"):
        register_task("pong", lambda n, s, t: None, num_actions=4, overwrite=True)


@pytest.mark.parametrize("ids", [(), (0, 0), (-1,), (4,)])
def test_action_ids_outside_of_the_head_are_refused(ids):
    with pytest.raises(ValueError, match=r"distinct ids in 0\.\.3"):
        register_task("unit_test_task", lambda n, s, t: None, num_actions=4, action_ids=ids)
