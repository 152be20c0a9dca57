// Package node keeps a Node and its Lease for each EdgeDevice that wants one. The state of the
// EdgeDevice itself belongs into package device, pods into package pod.
package node
