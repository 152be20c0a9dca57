package kubelet

import (
	"fmt"
	"net/http"
	"strings"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/streaming/pkg/httpstream"
)

// forwardedHeader is where kube-apiserver says what it was asked for when it forwards a request of nodes/proxy.
const forwardedHeader = "X-Forwarded-Uri"

// forwardedNode returns the Node whose subresource proxy a request came by; empty if it did not, or if that
// cannot be known. kube-apiserver has asked whether the user may use nodes/proxy of that Node and of no
// other, but calls with its own rights on all of them.
//
// A caller other than kube-apiserver can send what it likes, so the Node is never a reason to permit
// anything. What users send to kube-apiserver it replaces, unless the connection is to be upgraded: then it
// forwards their headers and adds none of its own, so they say nothing.
func forwardedNode(r *http.Request) (string, error) {
	uri := r.Header.Get(forwardedHeader)
	if uri == "" || httpstream.IsUpgradeRequest(r) {
		return "", nil
	}
	// kube-apiserver resolves "..", in the header from the root and in the path from the Node on. Only if the
	// path is the end of the header has the user not climbed from one Node to another.
	prefix, ok := strings.CutSuffix(uri, "/proxy"+r.URL.EscapedPath())
	id, found := strings.CutPrefix(prefix, "/api/v1/nodes/")
	_, node, _, valid := utilnet.SplitSchemeNamePort(id)
	if !ok || !found || !valid || strings.Contains(id, "/") {
		return "", forbidden(fmt.Sprintf("the header %s, %q, names no Node for the path %s: ask for /api/v1/nodes/<node>/proxy/<path>, without empty segments, %q and %q in the path",
			forwardedHeader, uri, r.URL.EscapedPath(), ".", ".."))
	}
	return node, nil
}

// findNode finds the Node and the pod that a request is about. An error says that they are not of the Node
// that the request came by, or may not be; it is for callers who have the right on the Node that was found.
func (k *Kubelet) findNode(req *request) error {
	forwarded, err := forwardedNode(req.Request)
	if !req.ofPod() && req.node == "" {
		req.node = forwarded
		if req.ofNode() && req.node == "" {
			// With a single Node the paths of any kubelet will do: they cannot mean another one.
			req.node = k.config.OnlyNode()
		}
	}
	req.nodeName = req.node
	if req.ofPod() {
		req.podObject = k.pod(req.route)
		if req.podObject != nil {
			req.nodeName = req.podObject.Spec.NodeName
		}
	}
	switch {
	case err != nil:
		return err
	case forwarded == "" || forwarded == req.nodeName:
		return nil
	case req.ofPod():
		// The same whether it is on another Node or nowhere: that is not for users of this one.
		return forbidden(fmt.Sprintf("the Node %q, whose proxy this request came by, has no pod %s/%s", forwarded, req.namespace, req.pod))
	}
	return forbidden(fmt.Sprintf("this request came by the proxy of the Node %q and asks for the Node %q", forwarded, req.nodeName))
}
