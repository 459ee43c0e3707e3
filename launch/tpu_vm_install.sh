# shellcheck shell=bash
# Runs on every worker of a slice: a virtual environment with this project in it. Python 3.12, whatever the image has.
set -e
rm -rf ~/colar_jax && mkdir ~/colar_jax && tar -xzf ~/colar_jax.tar.gz -C ~/colar_jax
python3 -m pip install --user --quiet uv
[ -x ~/venv/bin/python ] || python3 -m uv venv --quiet --python 3.12 ~/venv
cd ~/colar_jax && python3 -m uv pip install --quiet --python ~/venv/bin/python -e '.[tpu]'
