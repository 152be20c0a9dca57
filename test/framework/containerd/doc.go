// Package containerd runs a containerd of its own below one directory: for integration tests, and for
// the devices of a development cluster. It needs root and Debian's packages containerd, runc,
// containernetworking-plugins and, for the images it makes, busybox-static. No registry is needed:
// images are made on the spot. Nothing is shared with a containerd of the machine.
//
// The package depends on the standard library and golang.org/x/sys alone.
package containerd
