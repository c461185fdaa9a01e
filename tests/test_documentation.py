"""The README and the pages of the documentation: their code runs, their commands can be given."""

import importlib.util
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest

import optim
from experiments.command_line.main import _parse
from experiments.command_line.meta_train import MetaTrain
from experiments.meta_training.methods import meta_run

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
ALL_PAGES = [*PAGES, *sorted((ROOT / "docs" / "api").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.M)


def commands(page: Path) -> list[str]:
    """The commands in a page's blocks, those of several lines in one and without comments."""
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [line.partition("  #")[0].strip() for line in lines if line.strip()]


with_python = [page for page in PAGES if blocks(page, "python")]
given = [(page.name, command) for page in PAGES for command in commands(page)]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that pages take for there, some of them where an earlier command writes."""
    monkeypatch.chdir(tmp_path)
    for path, architecture in (
        ("weights.safetensors", optim.OPEN()),
        ("runs/warm/meta_params.safetensors", optim.OPEN()),
        ("runs/open/best_meta_params.safetensors", optim.OPEN()),
        ("runs/optim4rl/meta_params.safetensors", optim.Optim4RL()),
    ):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        metadata = {"architecture": architecture, "training_tasks": "none"}
        optim.save_meta_params(path, architecture.init(jax.random.key(0)), metadata)
    np.save("breakout_OPEN.npy", np.zeros(1211, np.float32))
    run = Path("runs/mine/Breakout-MinAtar/adam")
    run.mkdir(parents=True)
    for name in ("config.json", "metrics.csv"):
        (run / name).touch()
    return tmp_path


def test_pages_hold_code() -> None:
    assert README in with_python
    assert len(with_python) >= 4
    assert len(given) >= 15


@pytest.mark.parametrize("page", with_python, ids=lambda page: page.stem)
def test_python_runs(page: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page, "python"):  # in turn, each with what the ones before it defined
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            exec(compile(block, str(page), "exec"), names)
        printed = capsys.readouterr().out
        for expected in re.findall(r"print\(.*\)  # (.*)", block):
            assert expected in printed


@pytest.mark.parametrize(("page", "command"), given)
def test_command_can_be_given(page: str, command: str, files: Path) -> None:
    program, *arguments = shlex.split(command)
    if program == "rl-optim":
        parsed = _parse(arguments)
        forget(getattr(parsed, "out", None))
        parsed.check()
        if isinstance(parsed, MetaTrain):
            meta_run(parsed)
    elif program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.M)
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for extra in re.findall(r"\[(\w+)\]", command):
            assert extra in extras["optional-dependencies"]
    else:
        assert program == "python"
        check_benchmark(arguments)


def forget(out: Path | None) -> None:
    """Removes what a command writes and other commands take for there."""
    if out is not None and out.is_dir():
        shutil.rmtree(out)
    elif out is not None:
        out.unlink(missing_ok=True)


def check_benchmark(arguments: list[str]) -> None:
    """That `python -m MODULE ...` names a module, and options that its text knows."""
    assert arguments[0] == "-m"
    found = importlib.util.find_spec(arguments[1])
    assert found is not None
    assert found.origin is not None
    text = Path(found.origin).read_text()
    for option in arguments:
        if option.startswith("--"):
            assert f'"{option}"' in text, option


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_benchmarks_are_there(page: Path) -> None:
    for module in re.findall(r"python -m (experiments(?:\.[a-z_]+)+)", page.read_text()):
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"\w+:|#", link):
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 200


def test_all_of_optim_is_in_the_reference() -> None:
    pages = [ROOT / "docs" / "api" / f"{name}.md" for name in ("optimizers", "learned", "tools")]
    text = "".join(page.read_text() for page in pages)
    listed = re.findall(r"^\.\. auto(?:function|class):: (\w+)$", text, re.M)
    assert sorted(listed) == sorted(optim.__all__)
