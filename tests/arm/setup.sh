#!/usr/bin/env bash
# Sets up an arm64 Python with LiteRT and NumPy below the folder $1, and the emulator to run it.
# Needs Debian 12 on amd64 (apt-get, dpkg-deb) and its backports; installs nothing outside $1.
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
python=$2
sources=/etc/apt/sources.list.d/debian.sources
[ -e "$folder/done" ] && exit 0

if ! command -v apt-get dpkg-deb >/dev/null || ! grep -qs '^Suites: bookworm ' "$sources"; then
  echo "needs apt-get and dpkg-deb of Debian 12, and its sources in $sources" >&2
  exit 3
fi

mkdir -p "$folder"/{state/lists/partial,cache/archives/partial,debs,wheels,root,site}
touch "$folder/state/status"
sed 's/^Suites: bookworm .*/Suites: bookworm bookworm-updates bookworm-backports/' \
  "$sources" >"$folder/debian.sources"
cat >"$folder/apt.conf" <<CONF
Dir::State "$folder/state";
Dir::State::status "$folder/state/status";
Dir::Cache "$folder/cache";
Dir::Etc::sourcelist "$folder/debian.sources";
Dir::Etc::sourceparts "-";
APT::Architecture "amd64";
APT::Architectures {"amd64"; "arm64";};
APT::Sandbox::User "root";
CONF
export APT_CONFIG=$folder/apt.conf
libraries=(libc6 libstdc++6 libgcc-s1 zlib1g libexpat1 libssl3 libbz2-1.0 liblzma5 libffi8 libgomp1
  libpython3.11-minimal libpython3.11-stdlib python3.11-minimal)
apt-get -qq update
# Version 7.2 of Debian 12 itself crashes on LiteRT's kernels; 10 does not.
(cd "$folder/debs" && apt-get -qq download qemu-user/bookworm-backports "${libraries[@]/%/:arm64}")
for package in "$folder"/debs/*_arm64.deb; do dpkg-deb -x "$package" "$folder/root"; done
dpkg-deb -x "$folder"/debs/qemu-user_*.deb "$folder/emulator"

version() { "$python" -c "import importlib.metadata as m; print(m.version('$1'))"; }
"$python" -m pip download --quiet --no-deps --dest "$folder/wheels" --only-binary=:all: \
  --python-version 3.11 --platform manylinux_2_27_aarch64 --platform manylinux_2_28_aarch64 \
  --platform manylinux2014_aarch64 \
  "ai-edge-litert==$(version ai-edge-litert)" "numpy==$(version numpy)" \
  "flatbuffers==$(version flatbuffers)"
for wheel in "$folder"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$folder/site"; done
rm -r "$folder/debs" "$folder/wheels" "$folder/cache" "$folder/state"
touch "$folder/done"
