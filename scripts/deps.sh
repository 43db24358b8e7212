#!/usr/bin/env bash
# Installs what the tests need besides Go, on Debian and Ubuntu. Does nothing
# when all is there. Without root and without sudo it says what is missing; the
# tests that need it skip then.
set -euo pipefail

# command, or file, → package
needed="
ip:iproute2 ss:iproute2 tc:iproute2 nft:nftables conntrack:conntrack ipset:ipset
iptables-legacy:iptables ping:iputils-ping nginx:nginx wrk:wrk modprobe:kmod
journalctl:systemd dmesg:util-linux unshare:util-linux setpriv:util-linux
tcpdump:tcpdump dig:bind9-dnsutils traceroute:traceroute nmap:nmap curl:curl
xz:xz-utils zstd:zstd bzip2:bzip2 ldd:libc-bin depmod:kmod
sysctl:procps debootstrap:debootstrap mke2fs:e2fsprogs jq:jq
ansible-playbook:ansible-core sshd:openssh-server ssh-keygen:openssh-client qemu-system-x86_64:qemu-system-x86
/usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring"

PATH="$PATH:/usr/sbin:/sbin"
packages=()
for pair in $needed; do
	what=${pair%%:*} package=${pair#*:}
	[ "${what#/}" != "$what" ] && [ -e "$what" ] || command -v "$what" >/dev/null || packages+=("$package")
done
[ ${#packages[@]} -gt 0 ] || exit 0
read -ra packages <<<"$(printf '%s\n' "${packages[@]}" | sort -u | tr '\n' ' ')"

sudo=()
if [ "$(id -u)" != 0 ]; then
	if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
		echo "deps: missing ${packages[*]}; as root: apt-get install ${packages[*]}" >&2
		exit 0
	fi
	sudo=(sudo -n)
fi
if ! command -v apt-get >/dev/null; then
	echo "deps: missing ${packages[*]}, and there is no apt-get to install them" >&2
	exit 0
fi
echo "deps: installing ${packages[*]}"
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get -q update >/dev/null
# Services that a package would start have no business on a test machine.
if [ ! -e /usr/sbin/policy-rc.d ]; then
	trap '"${sudo[@]}" rm -f /usr/sbin/policy-rc.d' EXIT
	printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee /usr/sbin/policy-rc.d >/dev/null
	"${sudo[@]}" chmod +x /usr/sbin/policy-rc.d
fi
"${sudo[@]}" apt-get -q -y --no-install-recommends install "${packages[@]}" >/dev/null
