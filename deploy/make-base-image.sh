#!/bin/sh
# Make the base image from Debian packages alone, so that no image registry is needed.
# Skips where the image exists; run with --force to make it anew. Needs root and debootstrap.
set -eu
image=${BASE_IMAGE:-trilemma-base:bookworm}
suite=bookworm

if [ "${1:-}" != "--force" ] && docker image inspect "$image" >/dev/null 2>&1; then
    echo "$image exists"
    exit 0
fi
if ! command -v debootstrap >/dev/null; then
    echo "debootstrap is missing; install it with: apt-get install debootstrap" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "debootstrap needs root; run: sudo sh deploy/make-base-image.sh" >&2
    exit 1
fi

# The mirror that this host's own apt uses, else debootstrap's default.
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' \
    'Created-By: Packages' 2>/dev/null | awk -v suite="$suite" '$2 == suite { print $1; exit }')}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
echo "making $image"
if ! debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
    "$suite" "$root" ${mirror:+"$mirror"} >"$work/log" 2>&1; then
    tail -n 20 "$work/log" "$root/debootstrap/debootstrap.log" 2>/dev/null >&2
    exit 1
fi
# Connections out of a container trust what the host trusts.
if [ -r /etc/ssl/certs/ca-certificates.crt ]; then
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
fi
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/* \
    "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/* "$root"/debootstrap
tar -C "$root" --numeric-owner -c . | docker import \
    --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'ENV LANG=C.UTF-8' - "$image" >/dev/null
echo "made $image"
