// Package kubelet is the endpoint that kube-apiserver and metrics-server expect of the kubelet of a
// Node: container logs, exec, attach, port-forward, pods and statistics. One listener serves all
// Nodes whose devices are linked to this replica: a pod's namespace and name say which device is
// meant, and what is about a Node as a whole lies below /nodes/<node>/. That may be left out of requests
// that come by the subresource proxy of a Node, which kube-apiserver names, and as long as there is one Node only.
//
// How a stream reaches a device belongs in pkg/edge/gateway/target, how it is spoken over HTTP in
// pkg/streaming. Running pods is the business of the devices.
package kubelet
