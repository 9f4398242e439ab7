#!/usr/bin/env bash
# Unpacks Debian's headless Chromium, with the libraries that this machine lacks, below the folder
# $1. Needs Debian's apt-get and dpkg-deb; installs nothing outside $1.
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
[ -e "$folder/done" ] && exit 0

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
  echo "no Chromium is installed, and there is no apt-get to unpack one with" >&2
  exit 3
fi

mkdir -p "$folder"/{state/lists/partial,cache/archives/partial,root}
cat >"$folder/apt.conf" <<CONF
Dir::State "$folder/state";
Dir::State::status "/var/lib/dpkg/status";
Dir::Cache "$folder/cache";
APT::Sandbox::User "root";
Debug::NoLocking "1";
CONF
export APT_CONFIG=$folder/apt.conf
apt-get -qq update
apt-get -qq -y --no-install-recommends --download-only install chromium-headless-shell
for package in "$folder"/cache/archives/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
rm -r "$folder/cache" "$folder/state"
touch "$folder/done"
