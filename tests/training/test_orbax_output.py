import subprocess
import sys
from pathlib import Path

# A coroutine that waits, and raises when it is thrown away, as Orbax's reads do. `sys.argv[1]`: the file that it is of.
PROGRAM = """
import sys
from colar_jax.training import checkpoints

class Forever:
    def __await__(self):
        yield

source = "async def read():" + chr(10) + " try: await Forever()" + chr(10) + " finally: raise OSError('cut off')"
names = {"Forever": Forever}
exec(compile(source, sys.argv[1], "exec"), names)
names["read"]().send(None)
"""


def printed_by(file_name: str) -> str:
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PROGRAM, file_name]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr


def test_what_a_read_of_orbax_says_when_it_goes_is_dropped_and_of_others_is_not():
    assert printed_by("/site-packages/orbax/checkpoint/serialization.py") == ""
    assert "cut off" in printed_by("/site-packages/others/serialization.py")
