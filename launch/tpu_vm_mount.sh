# shellcheck shell=bash disable=SC2154 # bucket is set before this
# Runs on every worker before training, as a part of what launch/tpu_vm.sh start sends there: the bucket at ~/bucket.
#
# It installs gcsfuse where that is missing. It takes no flags: launch/tpu_vm.sh says which bucket.
if [ $# -gt 0 ] || [ -z "$bucket" ]; then
    # shellcheck source-path=SCRIPTDIR source=common.sh
    . "$(dirname "$0")/common.sh"
    help_if_asked "$0" "$@"
    die "launch/tpu_vm_mount.sh is a part of launch/tpu_vm.sh: give that one --bucket=..."
fi
command -v gcsfuse >/dev/null || {
    echo "deb https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
        sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null &&
        curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg |
        sudo tee /etc/apt/trusted.gpg.d/gcsfuse.asc >/dev/null &&
        sudo apt-get update -qq && sudo apt-get install -qq -y gcsfuse
} || exit 1
mkdir -p ~/bucket
# Checkpoints are finished by renaming their folder.
mountpoint -q ~/bucket || gcsfuse --implicit-dirs --rename-dir-limit=1000000 "$bucket" ~/bucket || exit 1
