# shellcheck shell=bash
# Runs on every worker of a slice, sent there by launch/tpu_vm.sh: it needs no call of yours, and takes no flags.
#
# It unpacks ~/colar_jax.tar.gz to ~/colar_jax, in place of the files that it unpacked there before, and installs that in
# ~/venv, with Python 3.12, whatever the image has. What training wrote there, such as runs/, stays. A ~/colar_jax that it
# did not make it leaves alone.
set -e
if [ $# -gt 0 ]; then
    # shellcheck source-path=SCRIPTDIR source=common.sh
    . "$(dirname "$0")/common.sh"
    help_if_asked "$0" "$@"
    die "launch/tpu_vm_install.sh takes no flags: launch/tpu_vm.sh install sends it to the workers"
fi
refuse() {
    printf 'error: %s\n' "$1" >&2
    exit 2
}
[ -f ~/colar_jax.tar.gz ] || refuse "there is no ~/colar_jax.tar.gz: launch/tpu_vm.sh install brings it"
[ ! -e ~/colar_jax ] || [ -e ~/colar_jax/.shipped_by_tpu_vm ] ||
    refuse "$HOME/colar_jax was not made by launch/tpu_vm.sh, which would replace it: move it away"
mkdir -p ~/colar_jax
# The marker lists what was shipped.
[ ! -e ~/colar_jax/.shipped_by_tpu_vm ] || (cd ~/colar_jax && grep -v '/$' .shipped_by_tpu_vm | tr '\n' '\0' | xargs -0 rm -f --)
tar -tzf ~/colar_jax.tar.gz >~/colar_jax/.shipped_by_tpu_vm
tar -xzf ~/colar_jax.tar.gz -C ~/colar_jax
python3 -m pip install --user --quiet uv
[ -x ~/venv/bin/python ] || python3 -m uv venv --quiet --python 3.12 ~/venv
# shellcheck disable=SC2154 # launch/tpu_vm.sh sends it along
cd ~/colar_jax && python3 -m uv pip install --quiet --python ~/venv/bin/python -e ".[$extras]"
