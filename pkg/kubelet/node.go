package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/gateway/target"
	"arhat.dev/aranya/pkg/edge/staticpod"
)

// serveNode answers what is about one Node as a whole.
func (k *Kubelet) serveNode(w http.ResponseWriter, req *request, session gateway.Session) {
	switch req.action {
	case actionHealthz:
		fmt.Fprint(w, "ok") // it has a link
	case actionConfigz:
		writeJSON(w, req, nodeConfig(session))
	case actionPods:
		k.servePods(w, req)
	case actionRunningPods:
		k.serveRunningPods(w, req, session)
	case actionStats:
		onlyCPUAndMemory := strings.EqualFold(req.URL.Query().Get("only_cpu_and_memory"), "true")
		summary, err := k.summary(req.Context(), req.nodeName, session, onlyCPUAndMemory)
		if err != nil {
			writeError(w, err)
			return
		}
		writeJSON(w, req, summary)
	case actionMetrics:
		k.serveMetrics(w, req, session)
	}
}

func (k *Kubelet) servePods(w http.ResponseWriter, req *request) {
	pods := k.config.PodsOnNode(req.nodeName)
	list := newPodList(len(pods))
	for _, pod := range pods {
		list.Items = append(list.Items, *pod)
	}
	writeJSON(w, req, list)
}

// serveRunningPods tells which pods have containers that run, by the device's runtime. As with the kubelet
// there is little more than names in it.
func (k *Kubelet) serveRunningPods(w http.ResponseWriter, req *request, session gateway.Session) {
	summary, err := k.summary(req.Context(), req.nodeName, session, true)
	if err != nil {
		writeError(w, err)
		return
	}
	list := newPodList(len(summary.Pods))
	for _, running := range summary.Pods {
		ref := running.PodRef
		pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ref.Namespace, Name: ref.Name, UID: types.UID(ref.UID)}}
		for _, c := range running.Containers {
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: c.Name})
		}
		if len(pod.Spec.Containers) > 0 {
			list.Items = append(list.Items, pod)
		}
	}
	writeJSON(w, req, list)
}

func newPodList(n int) *corev1.PodList {
	return &corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: make([]corev1.Pod, 0, n)}
}

// summary asks the device.
func (k *Kubelet) summary(ctx context.Context, nodeName string, session gateway.Session, onlyCPUAndMemory bool) (*stats.Summary, error) {
	summary, err := target.Stats(ctx, session, onlyCPUAndMemory)
	if err != nil {
		return nil, err
	}
	confine(summary, nodeName, session.Device().Namespace, k.config.PodsOnNode(nodeName))
	return summary, nil
}

// confine drops what a device of a namespace has no say in: pods that are not bound to its Node, and containers that
// they do not have.
func confine(summary *stats.Summary, nodeName, namespace string, pods []*corev1.Pod) {
	bound := make(map[stats.PodReference]*corev1.Pod, len(pods))
	for _, pod := range pods {
		bound[stats.PodReference{Namespace: pod.Namespace, Name: pod.Name, UID: string(staticpod.UIDOnDevice(pod, namespace))}] = pod
	}
	summary.Node.NodeName = nodeName
	kept := make([]stats.PodStats, 0, len(summary.Pods))
	for i := range summary.Pods {
		ref := summary.Pods[i].PodRef
		pod := bound[ref]
		if pod == nil {
			continue
		}
		delete(bound, ref) // nor may it report one twice
		summary.Pods[i].Containers = slices.DeleteFunc(summary.Pods[i].Containers, func(c stats.ContainerStats) bool {
			return !hasContainer(pod, c.Name)
		})
		kept = append(kept, summary.Pods[i])
	}
	summary.Pods = kept
}

func (k *Kubelet) serveMetrics(w http.ResponseWriter, req *request, session gateway.Session) {
	summary, err := k.summary(req.Context(), req.nodeName, session, true)
	if err != nil {
		klog.FromContext(req.Context()).Error(err, "Could not get the statistics of a device", "node", req.nodeName)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(resourceMetrics{summary})
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, req.Request)
}

// nodeConfig is the part of a kubelet's configuration that a device has: what its agent announced.
func nodeConfig(session gateway.Session) any {
	config := map[string]any{
		"apiVersion":   "kubelet.config.k8s.io/v1beta1",
		"kind":         "KubeletConfiguration",
		"enableServer": true,
	}
	status := &corev1.NodeStatus{}
	if err := status.Unmarshal(session.Info().NodeStatus.GetStatus()); err == nil {
		if pods, ok := status.Capacity[corev1.ResourcePods]; ok {
			config["maxPods"] = pods.Value()
		}
	}
	return map[string]any{"kubeletconfig": config}
}

func writeJSON(w http.ResponseWriter, req *request, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(data); err != nil {
		klog.FromContext(req.Context()).V(4).Info("Could not write a response", "err", err)
	}
}
