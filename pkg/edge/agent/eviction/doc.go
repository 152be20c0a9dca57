// Package eviction keeps a device usable when its memory, disk or process ids run out: it says so in
// conditions of the Node, frees what nobody needs, and in the end has pods stopped, in the order, for
// the reasons and in the words of the kubelet. It also has pods stopped that keep more on the device's
// disk than they may; what that is, checks decide. How much is used, how a pod is stopped and how images
// are removed is the business of other packages.
package eviction
