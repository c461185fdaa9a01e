"""The README's Python runs as it stands there."""

import re
from pathlib import Path

import jax
import pytest

import optim

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_readme_has_python():
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("block", BLOCKS)
def test_readme_python_runs(
    block: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)  # with the file that it loads
    meta_params = optim.OPEN().init(jax.random.key(0))
    metadata = {"architecture": "open", "training_tasks": "none"}
    optim.save_meta_params("weights.safetensors", meta_params, metadata)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(block, str(README), "exec"), {})
    for expected in re.findall(r"print\(.*\)  # (.*)", block):
        assert expected in capsys.readouterr().out
