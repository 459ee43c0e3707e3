# shellcheck shell=bash disable=SC2154 # bucket is set before this
# Runs on every worker before training: the bucket at ~/bucket.
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
