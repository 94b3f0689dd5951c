"""Blocks of the pages run, their commands are those of the recipes, their links lead somewhere."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from pages import NAMES, PAGES, ROOT, anchors, blocks, links
from recipe_names import PLAIN_RECIPES

from xtra_rl.recipes.overrides import check_overrides

WITH_PYTHON = [name for name in NAMES if blocks(name, "python")]
WITH_COMMANDS = [name for name in NAMES if blocks(name, "bash")]


def run_blocks(page, *, slow):
    """Run a page's blocks in one namespace; without ``slow`` up to the first one that is marked."""
    namespace = {"__name__": "page"}
    for number, block in enumerate(blocks(page, "python"), 1):
        if block.slow and not slow:
            return
        exec(compile(block.text, f"{page}, block {number}", "exec"), namespace)


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON)
def test_the_python_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").symlink_to(ROOT / "results")  # pages are read in a checkout
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run_blocks(page, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [name for name in WITH_PYTHON if any(b.slow for b in blocks(name, "python"))]
)
def test_the_slow_python_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(page, slow=True)


def commands(page):
    """Command lines of a page's shell blocks, continued lines joined, comments and what starts Python left out."""
    for block in blocks(page, "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            for part in re.sub(r"\s#.*", "", line).split("&&"):
                if words := shlex.split(part):
                    yield started(words)


def started(words):
    """What settings of the environment, ``torchrun`` and ``compute-sanitizer`` stand before."""
    words = words[next(place for place, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)) :]
    if words[0] == "torchrun":
        program = next(place for place, word in enumerate(words) if place and not word.startswith("--"))
        return ["python", *words[program:]]
    return words[words.index("python") :] if words[0] == "compute-sanitizer" else words


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_of_a_page_compose(page, config):
    for words in commands(page):
        if words[0] == "torchrun":
            words = ["python", *words[next(i for i, word in enumerate(words) if word.endswith(".py")) :]]
        if words[0] != "python" or words[1:2] == ["-m"]:
            continue
        script, arguments = Path(words[1]), words[2:]
        assert (ROOT / script).exists(), words
        recipe = script.stem
        if script.parent != Path("recipes"):
            continue
        if recipe in PLAIN_RECIPES:
            importlib.import_module(f"xtra_rl.recipes.{recipe}").parser().parse_args(arguments)
            continue
        check_overrides(recipe, arguments)
        overrides = [
            word for word in arguments if "=" in word and not word.startswith(("--", "hydra/", "hydra."))
        ]
        if "-m" in arguments:  # One of the values that it sweeps over.
            overrides = [word.partition(",")[0] for word in overrides]
        config(recipe, *[word for word in overrides if word != "scale=..."])


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_modules_and_extras_of_a_page_s_commands_exist(page):
    extras = re.search(r"\[options.extras_require\](.*?)\n\[", (ROOT / "setup.cfg").read_text(), re.S)[1]
    for words in commands(page):
        if words[:2] == ["python", "-m"] and words[2].startswith("xtra_rl"):
            module = words[2] if words[2].count(".") > 1 else f"{words[2]}.__main__"
            parser = getattr(importlib.import_module(module), "parser", None)
            if parser is not None:
                parser().parse_args(words[3:])
        if words[0] == "pip":
            for name in re.findall(r"\.\[(\w+)\]", " ".join(words)):
                assert re.search(rf"^{name} =", extras, re.M), words


@pytest.mark.parametrize("page", NAMES)
def test_links_of_a_page_lead_to_files_and_headings(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        # Anchors of the reference are made when the site is built, which checks them.
        if anchor and target.suffix == ".md" and not anchor.startswith("xtra_rl"):
            assert anchor in anchors(target), link


def test_links_to_names_of_the_reference_are_to_public_names():
    from public_surface import public_names

    public = set(public_names())
    for page in NAMES:
        for link in links(page):
            _, _, anchor = link.partition("#")
            if anchor.startswith("xtra_rl"):
                assert anchor in public, f"{page}: {link}"


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "docs" / "mkdocs.yml").read_text().partition("\nnav:")[2]
    listed = set(re.findall(r"[\w/]+\.md", nav))
    pages = [page for page in PAGES if page.is_relative_to(ROOT / "docs")]
    assert {str(page.relative_to(ROOT / "docs")) for page in pages} <= listed


def test_pages_show_no_diagram_that_the_site_does_not_draw():
    """GitHub draws mermaid, the site shows its source; the README, which is not on the site, may have some."""
    assert [name for name in NAMES if blocks(name, "mermaid")] == ["README.md"]


def test_diagrams_are_those_that_the_script_draws(tmp_path):
    code = "import sys, pathlib; import diagrams; diagrams.write(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT / "docs", check=True, timeout=120)
    kept = ROOT / "docs" / "pictures"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in kept.iterdir())
    for drawn in tmp_path.iterdir():
        assert texts_of(drawn) == texts_of(kept / drawn.name)


def texts_of(picture):
    """What is written in an SVG; its curves may differ in a digit between versions of matplotlib."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture.read_text())


def test_the_table_of_scales_is_that_of_the_configs(config):
    rows = {}
    for line in (ROOT / "docs" / "configuration.md").read_text().splitlines():
        if line.startswith("| "):
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            rows.setdefault(name, cells)
    for place, scale in enumerate(("smoke", "quick", "laptop", "workstation", "paper")):
        cfg = config("xtra_finetune", f"scale={scale}")
        size = cfg.env.image_size
        assert rows["frames"][place].startswith(f"{size}x{size} {'grey' if cfg.env.grayscale else 'RGB'}")
        assert (
            rows["search"][place].lower().startswith(f"{cfg.search.algorithm}, {cfg.search.num_simulations}")
        )
        assert rows["optimiser"][place].lower() == f"{cfg.optim.name}, {cfg.optim.lr:g}"
        assert rows["target game, env steps"][place] == f"{cfg.finetune.env_steps:,}"
        assert rows["batch, target + cross"][place] == f"{cfg.batch_size} + {cfg.cross_batch_size}"
