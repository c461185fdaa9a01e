"""The command runs beside folders of other people that are called what ours are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rl_optim

FOLDER = Path(rl_optim.__file__).parent
THEIRS = "raise SystemExit('a file of the user was imported')\n"


# What is in the user's folder: packages that are called what all of ours are.
ALL = tuple(f"{package}/__init__.py" for package in rl_optim.PACKAGES)


def put(folder: Path, files: tuple[str, ...]) -> None:
    for file in files:
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(THEIRS)


def run(project: Path, *command: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Runs Python in a user's folder."""
    environment = os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": ""}
    return subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def first(*folders: Path) -> str:
    return os.pathsep.join(map(str, folders))


# Of environments, by `agents` and `optim`.
LIST = ("list", "envs", "CartPole*")
STARTS = [("-c", "import rl_optim; rl_optim.main()"), ("-m", "rl_optim")]


@pytest.mark.parametrize(
    ("files", "start"), [*((ALL, start) for start in STARTS), (("optim.py",), STARTS[0])]
)
def test_the_command_runs_beside_them(
    files: tuple[str, ...], start: tuple[str, ...], tmp_path: Path
) -> None:
    """Also where Python looks into the user's folder first."""
    put(tmp_path, files)
    done = run(tmp_path, *start, *LIST, path=first(tmp_path, FOLDER))
    assert (done.returncode, done.stderr) == (0, "")
    assert "CartPole-v1" in done.stdout


@pytest.mark.skipif(
    "RL_OPTIM_TEST_INSTALLED" not in os.environ, reason="set by `make test`, which installs a wheel"
)
def test_the_installed_command_runs_beside_them(tmp_path: Path) -> None:
    put(tmp_path, ALL)
    script = Path(sys.executable).with_name("rl-optim")
    done = run(tmp_path, str(script), *LIST, path=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "CartPole-v1" in done.stdout


def test_modules_run_beside_them_where_python_leaves_the_folder_out(tmp_path: Path) -> None:
    put(tmp_path, ALL)
    module = ("-m", "experiments.command_line.main", "--help")
    done = run(tmp_path, "-P", *module, path=str(FOLDER))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("file", "importer"),
    [
        ("optim.py", "agents"),
        ("optim/__init__.py", "meta"),
        ("agents/__init__.py", "meta"),
        ("meta/__init__.py", "experiments"),
    ],
)
def test_a_package_of_ours_says_which_file_hides_another(
    file: str, importer: str, tmp_path: Path
) -> None:
    put(tmp_path, (file,))
    done = run(tmp_path, "-c", f"import {importer}", path=first(tmp_path, FOLDER))
    package = file.removesuffix("/__init__.py").removesuffix(".py")
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: RL-Optim's package {package!r} is hidden by {tmp_path / file}; rename that, "
        "or keep its folder off Python's path (python -P leaves out the present folder)."
    )


def test_a_folder_without_python_hides_nothing(tmp_path: Path) -> None:
    for name in rl_optim.PACKAGES:
        (tmp_path / name).mkdir()
    done = run(tmp_path, "-c", "import experiments", path=first(tmp_path, FOLDER))
    assert (done.returncode, done.stderr) == (0, "")


def test_files_that_another_installation_replaced_are_named(tmp_path: Path) -> None:
    for name in ("rl_optim.py", "optim", "meta", "experiments"):
        (tmp_path / name).symlink_to(FOLDER / name)
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").touch()
    done = run(tmp_path, "-c", "import rl_optim; rl_optim.main()", *LIST, path=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "rl-optim: No module named 'agents.environments'. In "
        f"{tmp_path / 'agents'} another installation seems to have replaced files of ours; install "
        "RL-Optim again, in an environment of its own.\n"
    )
