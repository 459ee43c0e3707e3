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
    codename=$(lsb_release -cs) &&
        sudo curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg -o /etc/apt/trusted.gpg.d/gcsfuse.asc &&
        echo "deb https://packages.cloud.google.com/apt gcsfuse-$codename main" |
        sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null &&
        # A machine that was just made updates itself meanwhile. `update` does not wait for that, whatever it is told.
        for _ in {1..30}; do sudo apt-get update -qq && break || sleep 10; done &&
        sudo apt-get -o DPkg::Lock::Timeout=300 install -qq -y gcsfuse
} || exit 1
mkdir -p ~/bucket
# Checkpoints are finished by renaming their folder.
mountpoint -q ~/bucket || gcsfuse --implicit-dirs --rename-dir-limit=1000000 "$bucket" ~/bucket || exit 1
