// Package edgedevice is the REST storage of the resource edgedevices: its strategies, its storage in
// etcd, what "kubectl get" prints, and one file per subresource. Types and their validation belong in
// pkg/apis; the links to the devices belong in pkg/edge/gateway.
package edgedevice
