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
# The services of the packages are not wanted: tests run containerds and brokers of their own. This is what Debian asks
# before it starts one, with systemd and without; 101 is a no.
policy=/usr/sbin/policy-rc.d
restore() {
	if [ -e "$policy.aranya" ]; then
		mv -f "$policy.aranya" "$policy"
	else
		rm -f "$policy"
	fi
}
if [ -e "$policy" ] && [ ! -e "$policy.aranya" ]; then # that one is of a run that was killed
	mv "$policy" "$policy.aranya"
fi
trap restore EXIT
trap 'exit 130' INT TERM
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing
