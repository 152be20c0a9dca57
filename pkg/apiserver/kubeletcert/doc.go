// Package kubeletcert gets the certificate with which the kubelet endpoint serves, from the cluster's
// signer kubernetes.io/kubelet-serving. One certificate per replica serves all Nodes: they all have the
// replica's address. How kubelet requests are answered is pkg/kubelet's business.
package kubeletcert
