package v1alpha1

// Labels, taints and annotations that aranya puts on Nodes. The first three are part of the
// interface: workloads select and tolerate devices by them.
const (
	// LabelRole is a Node label; its value on a device's Node is RoleEdgeDevice.
	LabelRole = "arhat.dev/role"
	// RoleEdgeDevice is the value of LabelRole.
	RoleEdgeDevice = "EdgeDevice"
	// LabelName is a Node label that holds the name of the EdgeDevice.
	LabelName = "arhat.dev/name"
	// LabelNamespace is a Node label that holds the namespace of the EdgeDevice. The Node's taint of
	// the same key and value keeps other pods away, see spec.node.namespaceTaint.
	LabelNamespace = "arhat.dev/namespace"
	// TaintNamespace is the key of that taint.
	TaintNamespace = "arhat.dev/namespace"
	// AnnotationUID is a Node annotation that holds the UID of the EdgeDevice the Node stands for. A
	// Node without it is not aranya's and is never touched.
	AnnotationUID = "arhat.dev/edgedevice-uid"
	// AnnotationApplied records on a Node, or on a device's Service, what of the EdgeDevice's spec was put on
	// it, so that it can be taken off again while what others put there stays.
	AnnotationApplied = "arhat.dev/applied"
	// TaintRemoving is the key of the taint of a Node that is being removed, with its EdgeDevice or because
	// spec.node.disabled is set. It says since when, and keeps new pods off but for those that tolerate every taint.
	TaintRemoving = "arhat.dev/removing"
	// AnnotationMissing is a Node annotation that says since when the Node is left though its EdgeDevice does not exist,
	// because there was none at all when aranya started.
	AnnotationMissing = "arhat.dev/edgedevice-missing-since"
	// AnnotationResourceMetricsPath is a Node annotation that tells metrics-server where on the kubelet
	// endpoint the metrics of this Node are.
	AnnotationResourceMetricsPath = "metrics.k8s.io/resource-metrics-path"
	// FinalizerNode is the finalizer that keeps an EdgeDevice until its Node and pods are gone.
	FinalizerNode = "aranya.arhat.dev/node"
)

// Headers of edgedevices/proxy, for clients that show a device as a site of its own. kube-apiserver lets no answer pass
// that redirects, and links in pages are made to lead through the API.
const (
	// ProxyHostHeader has a request reach the device with this Host, and the answer come back as the device gave it,
	// except that ProxyLocationHeader takes the place of Location.
	ProxyHostHeader     = "X-Aranya-Proxy-Host"
	ProxyLocationHeader = "X-Aranya-Proxy-Location"
)
