// Package criconfig turns a v1.Pod into what CRI is told: the configuration of its sandbox and of its
// containers. The functions decide nothing about when; apart from files they are asked to make
// (hosts file, termination message) they only compute. The outcome is what the kubelet would send.
package criconfig

import (
	v1 "k8s.io/api/core/v1"
)

// Node is what the configuration of a pod takes from the device.
type Node struct {
	Name string
	// HostIPs, primary first.
	HostIPs []string
	// Allocatable resources stand in for limits that a container does not have.
	Allocatable v1.ResourceList
	// MemoryCapacity in bytes, for the oom score.
	MemoryCapacity int64
	// PodDNS is for dnsPolicy ClusterFirst; nil: the device's own resolver.
	PodDNS *v1.PodDNSConfig
	// ResolvConf is the path of the device's resolver configuration.
	ResolvConf string
	// UpstreamResolvConf is that of the servers that a resolver on the device's loopback asks. Empty:
	// ResolvConf is for all pods.
	UpstreamResolvConf string
	// SeccompRoot is where localhost seccomp profiles lie.
	SeccompRoot string
	// SELinux is enabled: what pods mount gets their label.
	SELinux bool
	// CgroupParent of the pod's sandbox and containers, in the runtime's own notation.
	CgroupParent string
	// Owner marks what belongs to this agent.
	Owner string
	// LogDir is the base directory of pod logs.
	LogDir string
	// Features of the pod's runtime handler.
	Features Features
}

// Features are what some runtimes can do and others cannot.
type Features struct {
	RecursiveReadOnly, MountOptions, SupplementalGroupsPolicy bool
}
