import pytest
from command_line.program import CONFIG_FILE, Ran, call


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """`run(*arguments)` of a program that takes a config, in a folder with one config file, tiny.py."""
    (tmp_path / "tiny.py").write_text(CONFIG_FILE)
    monkeypatch.chdir(tmp_path)

    def run(*arguments, **options):
        called = call(list(arguments), **options)
        return Ran(*called, capsys.readouterr().err.splitlines())

    return run
