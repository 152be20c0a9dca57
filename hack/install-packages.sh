#!/bin/sh
# Installs the Debian packages that the tests, clusters with containerd and clusters with an MQTT broker need, if any is missing
# and this is root on Debian or a relative of it. It says what it does.
set -eu

missing=
need() { # need PACKAGE FILE...: one of the files shows that the package is there
	package=$1
	shift
	for file in "$@"; do
		if [ -e "$file" ]; then
			return 0
		fi
	done
	missing="$missing $package"
}
need containerd /usr/bin/containerd
need runc /usr/sbin/runc /usr/bin/runc
need containernetworking-plugins /usr/lib/cni/bridge
need busybox-static /bin/busybox /usr/bin/busybox
need bash /bin/bash
need gcc /usr/bin/gcc # of the race detector, with the next
need libc6-dev /usr/include/stdlib.h
need curl /usr/bin/curl
need mosquitto /usr/sbin/mosquitto
need iproute2 /sbin/ip /usr/sbin/ip /bin/ip
need iptables /sbin/iptables-restore /usr/sbin/iptables-restore

# The services of the packages are not wanted: tests run containerds and brokers of their own. This is what Debian asks
# before it starts one, with systemd and without; 101 is a no. The machine's own is put aside meanwhile.
policy=/usr/sbin/policy-rc.d
mark='# Of hack/install-packages.sh of aranya, for as long as that runs.'
restore() {
	if grep -qsxF "$mark" "$policy"; then
		rm -f "$policy"
	fi
	rm -f "$policy.new"
	if [ -e "$policy.aranya" ] && [ ! -e "$policy" ]; then
		mv "$policy.aranya" "$policy"
	fi
}
if [ "$(id -u)" -eq 0 ]; then
	exec 9>/run/aranya-packages.lock
	flock 9 # another run may be installing
	restore # after one that was killed
fi

if [ -z "$missing" ]; then
	exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "Not root: not installing$missing."
	exit 0
fi
if ! command -v apt-get >/dev/null; then
	echo "These Debian packages, or what your system has in their place, are missing:$missing" >&2
	exit 1
fi
echo "Installing Debian packages:$missing"
apt-get update -qq
trap restore EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy.new" # which may find the disk full
chmod 755 "$policy.new"
if [ -e "$policy" ] && [ ! -e "$policy.aranya" ]; then
	mv "$policy" "$policy.aranya"
fi
mv -f "$policy.new" "$policy"
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing
