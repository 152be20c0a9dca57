package kubelet

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"

	"arhat.dev/aranya/pkg/edge/gateway"
)

// request is one that has been routed and authorized.
type request struct {
	route
	*http.Request
	// node that the request is about.
	nodeName string
	// pod, if the path names one.
	podObject *corev1.Pod
}

// ServeHTTP authenticates, finds the Node, authorizes, and only then tells whether there is what was
// asked for.
func (k *Kubelet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	logger := klog.FromContext(r.Context()).WithValues("method", r.Method, "path", r.URL.Path)
	response, ok, err := k.config.Authenticator.AuthenticateRequest(r)
	if err != nil || !ok {
		if err != nil {
			logger.V(2).Info("Could not authenticate a request", "err", err)
		}
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	req := &request{route: parseRoute(r.URL.Path), Request: r}
	refusal := k.findNode(req)
	err = k.authorize(req, response.User)
	if err == nil {
		err = refusal
	}
	if err != nil {
		logger.V(2).Info("Refused a request", "user", response.User.GetName(), "node", req.nodeName, "err", err)
		writeError(w, err)
		return
	}
	if methods := req.methods(); methods != nil && !slices.Contains(methods, r.Method) {
		w.Header().Set("Allow", strings.Join(methods, ", "))
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		return
	}
	if httpstream.IsUpgradeRequest(r) && !req.upgrades() {
		// kube-apiserver does not tell by which Node's proxy such a request came, and hands on no answer but an error.
		http.Error(w, fmt.Sprintf("%s does not upgrade connections: ask without the header Connection: Upgrade", r.URL.Path), http.StatusBadRequest)
		return
	}
	k.serve(w, req)
}

// pod returns the pod that a path names, or nil.
func (k *Kubelet) pod(r route) *corev1.Pod {
	pod, err := k.config.Pods.Pods(r.namespace).Get(r.pod)
	if err != nil || (r.uid != "" && r.uid != string(pod.UID)) {
		return nil
	}
	if _, _, ok := k.config.DeviceForNode(pod.Spec.NodeName); !ok {
		return nil // the pod of another kubelet
	}
	return pod
}

// verbs of the methods, as the kubelet has them.
var verbs = map[string]string{
	http.MethodGet:    "get",
	http.MethodPost:   "create",
	http.MethodPut:    "update",
	http.MethodPatch:  "patch",
	http.MethodDelete: "delete",
}

// authorize asks about any of the request's subresources of its Node. A request whose Node is not
// known needs the right on all Nodes: others are not told what there is.
func (k *Kubelet) authorize(req *request, u user.Info) error {
	verb := verbs[req.Method]
	if req.runsCommands() {
		// A WebSocket client uses GET for the same thing.
		verb = "create"
	}
	for _, subresource := range req.subresources {
		decision, _, err := k.config.Authorizer.Authorize(req.Context(), authorizer.AttributesRecord{
			User: u, Verb: verb,
			APIVersion: "v1", Resource: "nodes", Subresource: subresource, Name: req.nodeName,
			ResourceRequest: true, Path: req.URL.Path,
		})
		if decision == authorizer.DecisionAllow {
			return nil
		}
		if err != nil {
			klog.FromContext(req.Context()).Error(err, "Could not authorize a request", "user", u.GetName(), "verb", verb, "subresource", subresource)
			return apierrors.NewInternalError(fmt.Errorf("authorization error (user=%s, verb=%s, resource=nodes, subresource=%s)", u.GetName(), verb, subresource))
		}
	}
	return forbidden(fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", u.GetName(), verb, req.subresources))
}

func (k *Kubelet) serve(w http.ResponseWriter, req *request) {
	switch req.action {
	case actionUnknown:
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	case actionUnsupported:
		http.Error(w, fmt.Sprintf("%s is not supported for edge devices", req.URL.Path), http.StatusNotImplemented)
		return
	case actionHealthz:
		if req.node == "" {
			fmt.Fprint(w, "ok")
			return
		}
	}
	if req.ofPod() {
		if req.podObject == nil {
			http.Error(w, fmt.Sprintf("pod %s/%s does not exist", req.namespace, req.pod), http.StatusNotFound)
			return
		}
	} else if req.node == "" {
		http.Error(w, fmt.Sprintf("this endpoint serves many Nodes: use /nodes/<node>/%s", req.action), http.StatusNotFound)
		return
	}
	session, err := k.session(req.nodeName)
	if err != nil {
		writeError(w, err)
		return
	}
	if req.ofPod() {
		k.servePod(w, req, session)
	} else {
		k.serveNode(w, req, session)
	}
}

// session returns the link of the device that a Node stands for.
func (k *Kubelet) session(nodeName string) (gateway.Session, error) {
	namespace, name, ok := k.config.DeviceForNode(nodeName)
	if !ok {
		return nil, notFound(fmt.Sprintf("no edge device stands behind the Node %q", nodeName))
	}
	session, ok := k.config.Sessions.Session(namespace, name)
	if ok {
		return session, nil
	}
	return nil, gateway.NewLastSeenError(namespace, name, k.config.LastSeen(namespace, name))
}

// writeError answers with the text of an error, as the kubelet does, and the code of an API status.
func writeError(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Code != 0 {
		code = int(status.Status().Code)
	}
	if code == http.StatusServiceUnavailable || code == http.StatusGatewayTimeout {
		code = http.StatusBadGateway // clients drop the text of the others
	}
	http.Error(w, err.Error(), code)
}
