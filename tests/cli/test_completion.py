"""What a shell completes: commands, and the options of the one that is typed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import redisjobs
from redisjobs.cli import app

BASH = shutil.which("bash")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """That of a shell that finds `redisjobs`."""
    command = tmp_path / "redisjobs"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m redisjobs "$@"\n')
    command.chmod(0o755)
    (tmp_path / "pyproject.toml").write_text("[tool.redisjobs]\nnot-there = 3")
    paths = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(Path(redisjobs.__file__).parents[1])}
    return os.environ | paths


@pytest.mark.slow
@pytest.mark.skipif(BASH is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("worker", ["worker", "workers"]),
        ("worker app:queue --max-", ["--max-deliveries", "--max-jobs", "--max-rss"]),
        ("worker app:queue --log-level ", ["debug", "info", "warning", "error"]),
        ("dead re", ["requeue"]),
    ],
)
def test_bash_completes_commands_and_options(
    tmp_path: Path, environment: dict[str, str], line: str, completed: list[str]
) -> None:
    assert BASH is not None
    words = line.split(" ")
    typed = " ".join(f"'{word}'" for word in words)
    script = f"""
        eval "$(_REDISJOBS_COMPLETE=source_bash redisjobs)"
        COMP_WORDS=(redisjobs {typed}); COMP_CWORD={len(words)}
        $(complete -p redisjobs | sed 's/.*-F //; s/ .*//') redisjobs
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """

    ended = subprocess.run(
        [BASH, "--norc", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=50
    )

    assert ended.stderr == ""
    assert ended.stdout.splitlines() == completed


@pytest.mark.parametrize(
    ("shell", "word"), [("zsh", "compdef _redisjobs_completion redisjobs"), ("fish", "complete ")]
)
def test_other_shells_have_a_script_and_get_answers(
    shell: str, word: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def answer(what: str) -> str:
        monkeypatch.setenv("_REDISJOBS_COMPLETE", f"{what}_{shell}")
        with pytest.raises(SystemExit):
            app.run()
        return capfd.readouterr().out

    monkeypatch.setattr(sys, "argv", ["redisjobs"])
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "redisjobs worker --unt")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")

    assert word in answer("source")
    assert "--until-idle" in answer("complete")
    assert "--strict" not in answer("complete")
