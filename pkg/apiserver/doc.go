// Package apiserver is the program aranya-apiserver: options become a configuration, the
// configuration a server, and the server wires together what the other packages do: the API
// (pkg/registry), the device gateway (pkg/edge/gateway), the controllers (pkg/controller) and the
// kubelet endpoint (pkg/kubelet). What any of these does belongs there, not here. Parts that exist
// only to run the server (embedded etcd, serving certificates) have packages below this one.
package apiserver
