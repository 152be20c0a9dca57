package validation

import (
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

func withLabel(key, value string) func(*aranya.EdgeDevice) {
	return func(d *aranya.EdgeDevice) { d.Spec.Node.Labels = map[string]string{key: value} }
}

func withTaint(taints ...corev1.Taint) func(*aranya.EdgeDevice) {
	return func(d *aranya.EdgeDevice) { d.Spec.Node.Taints = taints }
}

// keys are n labels or annotations.
func keys(n int) map[string]string {
	m := make(map[string]string, n)
	for i := range n {
		m["key-"+strconv.Itoa(i)] = ""
	}
	return m
}

func taints(n int) []corev1.Taint {
	list := make([]corev1.Taint, n)
	for i := range list {
		list[i] = corev1.Taint{Key: "key-" + strconv.Itoa(i), Effect: corev1.TaintEffectNoSchedule}
	}
	return list
}

func withDNS(dns corev1.PodDNSConfig) func(*aranya.EdgeDevice) {
	return func(d *aranya.EdgeDevice) { d.Spec.Pod.DNS = &dns }
}

func TestValidateNodeAndPod(t *testing.T) {
	noSchedule := corev1.TaintEffectNoSchedule
	runSpecCases(t, []specCase{
		{name: "label", change: withLabel("topology.kubernetes.io/zone", "field-7")},
		{name: "label key", change: withLabel("a b", "c"), want: []string{"Invalid|spec.node.labels|"}},
		{name: "label value", change: withLabel("a", "b c"), want: []string{"Invalid|spec.node.labels|"}},
		{name: "label of the role", change: withLabel("arhat.dev/role", "x"), want: []string{"Forbidden|spec.node.labels[arhat.dev/role]|set by aranya"}},
		{name: "label of the name", change: withLabel("arhat.dev/name", "x"), want: []string{"Forbidden|spec.node.labels[arhat.dev/name]|set by aranya"}},
		{name: "label of the namespace", change: withLabel("arhat.dev/namespace", "x"), want: []string{"Forbidden|spec.node.labels[arhat.dev/namespace]|set by aranya"}},
		{name: "label of the architecture", change: withLabel("kubernetes.io/arch", "x"), want: []string{"Forbidden|spec.node.labels[kubernetes.io/arch]|set by aranya"}},
		{name: "label of the system", change: withLabel("kubernetes.io/os", "x"), want: []string{"Forbidden|spec.node.labels[kubernetes.io/os]|set by aranya"}},
		{name: "label of the host name", change: withLabel("kubernetes.io/hostname", "x"), want: []string{"Forbidden|spec.node.labels[kubernetes.io/hostname]|set by aranya"}},
		{name: "old label of the architecture", change: withLabel("beta.kubernetes.io/arch", "x"), want: []string{"Forbidden|spec.node.labels[beta.kubernetes.io/arch]|set by aranya"}},
		{name: "old label of the system", change: withLabel("beta.kubernetes.io/os", "x"), want: []string{"Forbidden|spec.node.labels[beta.kubernetes.io/os]|set by aranya"}},
		{
			name:   "label of an administrator",
			change: withLabel("node-restriction.kubernetes.io/secure", "true"),
			want:   []string{"Forbidden|spec.node.labels[node-restriction.kubernetes.io/secure]|administrators"},
		},
		{
			name:   "label of an administrator with a domain",
			change: withLabel("example.com.node-restriction.kubernetes.io/fips", "true"),
			want:   []string{"Forbidden|spec.node.labels[example.com.node-restriction.kubernetes.io/fips]|administrators"},
		},
		{name: "label that ends like that of an administrator", change: withLabel("my-node-restriction.kubernetes.io/a", ""), want: []string{"Forbidden|spec.node.labels[my-node-restriction.kubernetes.io/a]|kubelet may set"}},
		{name: "label of a role", change: withLabel("node-role.kubernetes.io/control-plane", ""), want: []string{"Forbidden|spec.node.labels[node-role.kubernetes.io/control-plane]|kubelet may set"}},
		{name: "label of Kubernetes", change: withLabel("kubernetes.io/cluster-service", "true"), want: []string{"Forbidden|spec.node.labels[kubernetes.io/cluster-service]|kubelet may set"}},
		{name: "label of k8s.io", change: withLabel("k8s.io/a", ""), want: []string{"Forbidden|spec.node.labels[k8s.io/a]|kubelet may set"}},
		{name: "label below k8s.io", change: withLabel("pool.k8s.io/a", ""), want: []string{"Forbidden|spec.node.labels[pool.k8s.io/a]|kubelet may set"}},
		{name: "label of kubelets", change: withLabel("gpu.kubelet.kubernetes.io/model", "x")},
		{name: "label of nodes", change: withLabel("node.kubernetes.io/instance-type", "small")},
		{name: "label of another domain", change: withLabel("notkubernetes.io/a", "")},
		{name: "label without a domain", change: withLabel("kubernetes.io", "")},
		{
			name:   "annotation key",
			change: func(d *aranya.EdgeDevice) { d.Spec.Node.Annotations = map[string]string{"a b": ""} },
			want:   []string{"Invalid|spec.node.annotations|"},
		},
		{
			name: "annotations of aranya",
			change: func(d *aranya.EdgeDevice) {
				d.Spec.Node.Annotations = map[string]string{v1alpha1.AnnotationUID: "x", v1alpha1.AnnotationApplied: "{}", v1alpha1.AnnotationMissing: "x", v1alpha1.AnnotationResourceMetricsPath: "/x", "a": "b"}
			},
			want: []string{
				"Forbidden|spec.node.annotations[arhat.dev/applied]|set by aranya",
				"Forbidden|spec.node.annotations[arhat.dev/edgedevice-missing-since]|set by aranya",
				"Forbidden|spec.node.annotations[arhat.dev/edgedevice-uid]|set by aranya",
				"Forbidden|spec.node.annotations[metrics.k8s.io/resource-metrics-path]|set by aranya",
			},
		},
		{
			name: "annotation of controller-manager",
			change: func(d *aranya.EdgeDevice) {
				d.Spec.Node.Annotations = map[string]string{"node.alpha.kubernetes.io/ttl": "7"}
			},
			want: []string{"Forbidden|spec.node.annotations[node.alpha.kubernetes.io/ttl]|control plane"},
		},
		{name: "128 labels", change: func(d *aranya.EdgeDevice) { d.Spec.Node.Labels = keys(128) }},
		{name: "129 labels", change: func(d *aranya.EdgeDevice) { d.Spec.Node.Labels = keys(129) }, want: []string{"TooMany|spec.node.labels|128"}},
		{name: "128 annotations", change: func(d *aranya.EdgeDevice) { d.Spec.Node.Annotations = keys(128) }},
		{name: "129 annotations", change: func(d *aranya.EdgeDevice) { d.Spec.Node.Annotations = keys(129) }, want: []string{"TooMany|spec.node.annotations|128"}},
		{
			name: "64 KiB of annotations",
			change: func(d *aranya.EdgeDevice) {
				d.Spec.Node.Annotations = map[string]string{"a": strings.Repeat("x", 64<<10-1)}
			},
		},
		{
			name: "more than 64 KiB of annotations",
			change: func(d *aranya.EdgeDevice) {
				d.Spec.Node.Annotations = map[string]string{"a": strings.Repeat("x", 64<<10)}
			},
			want: []string{"TooLong|spec.node.annotations|65536"},
		},
		{name: "64 taints", change: withTaint(taints(64)...)},
		{name: "65 taints", change: withTaint(taints(65)...), want: []string{"TooMany|spec.node.taints|64"}},
		{
			name: "taints",
			change: withTaint(
				corev1.Taint{Key: "a", Value: "1", Effect: noSchedule},
				corev1.Taint{Key: "a", Value: "1", Effect: corev1.TaintEffectNoExecute},
				corev1.Taint{Key: "b", Effect: corev1.TaintEffectPreferNoSchedule},
			),
		},
		{name: "taint without a key", change: withTaint(corev1.Taint{Effect: noSchedule}), want: []string{"Invalid|spec.node.taints[0].key|", "Invalid|spec.node.taints[0].key|"}},
		{name: "taint value", change: withTaint(corev1.Taint{Key: "a", Value: "b c", Effect: noSchedule}), want: []string{"Invalid|spec.node.taints[0].value|"}},
		{name: "taint effect", change: withTaint(corev1.Taint{Key: "a", Effect: "Never"}), want: []string{`NotSupported|spec.node.taints[0].effect|"NoSchedule", "PreferNoSchedule", "NoExecute"`}},
		{
			name:   "taint twice",
			change: withTaint(corev1.Taint{Key: "a", Value: "1", Effect: noSchedule}, corev1.Taint{Key: "a", Value: "2", Effect: noSchedule}),
			want:   []string{"Duplicate|spec.node.taints[1]|"},
		},
		{
			name:   "taint of the namespace",
			change: withTaint(corev1.Taint{Key: "arhat.dev/namespace", Effect: noSchedule}),
			want:   []string{"Forbidden|spec.node.taints[0].key|use spec.node.namespaceTaint"},
		},
		{
			name:   "taint of removed devices",
			change: withTaint(corev1.Taint{Key: "arhat.dev/removing", Effect: corev1.TaintEffectNoExecute}),
			want:   []string{"Forbidden|spec.node.taints[0].key|EdgeDevice is deleted"},
		},
		{
			name:   "taint of cordoned Nodes",
			change: withTaint(corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: noSchedule}),
			want:   []string{"Forbidden|spec.node.taints[0].key|use spec.node.unschedulable"},
		},
		{
			name:   "taint of the control plane",
			change: withTaint(corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: noSchedule}),
			want:   []string{"Forbidden|spec.node.taints[0].key|control plane"},
		},
		{
			name:   "namespaceTaint",
			change: func(d *aranya.EdgeDevice) { d.Spec.Node.NamespaceTaint = "Never" },
			want:   []string{`NotSupported|spec.node.namespaceTaint|"NoSchedule", "PreferNoSchedule", "NoExecute", "None"`},
		},

		{name: "one pod", change: func(d *aranya.EdgeDevice) { d.Spec.Pod.Capacity = ptr.To[int32](1) }},
		{name: "a thousand pods", change: func(d *aranya.EdgeDevice) { d.Spec.Pod.Capacity = ptr.To[int32](1000) }},
		{
			name:   "no pods",
			change: func(d *aranya.EdgeDevice) { d.Spec.Pod.Capacity = ptr.To[int32](0) },
			want:   []string{"Invalid|spec.pod.capacity|between 1 and 1000"},
		},
		{
			name:   "too many pods",
			change: func(d *aranya.EdgeDevice) { d.Spec.Pod.Capacity = ptr.To[int32](1001) },
			want:   []string{"Invalid|spec.pod.capacity|between 1 and 1000"},
		},
		{
			name: "dns",
			change: withDNS(corev1.PodDNSConfig{
				Nameservers: []string{"192.0.2.1", "2001:db8::1"}, Searches: []string{".", "example.com.", "_x.example.com"},
				Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: ptr.To("2")}},
			}),
		},
		{name: "dns without nameserver", change: withDNS(corev1.PodDNSConfig{}), want: []string{"Required|spec.pod.dns.nameservers|remove dns"}},
		{
			name:   "four nameservers",
			change: withDNS(corev1.PodDNSConfig{Nameservers: []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"}}),
			want:   []string{"TooMany|spec.pod.dns.nameservers|3"},
		},
		{
			name:   "nameserver by name",
			change: withDNS(corev1.PodDNSConfig{Nameservers: []string{"dns.example.com"}}),
			want:   []string{"Invalid|spec.pod.dns.nameservers[0]|"},
		},
		{
			name:   "search domain",
			change: withDNS(corev1.PodDNSConfig{Nameservers: []string{"192.0.2.1"}, Searches: []string{"a b"}}),
			want:   []string{"Invalid|spec.pod.dns.searches[0]|"},
		},
		{
			name:   "33 search domains",
			change: withDNS(corev1.PodDNSConfig{Nameservers: []string{"192.0.2.1"}, Searches: strings.Split(strings.Repeat("a ", 32)+"a", " ")}),
			want:   []string{"TooMany|spec.pod.dns.searches|32"},
		},
		{
			name: "long search list",
			change: withDNS(corev1.PodDNSConfig{Nameservers: []string{"192.0.2.1"}, Searches: strings.Fields(
				strings.Repeat(strings.Repeat("a.", 120)+"a ", 9))}),
			want: []string{"TooLong|spec.pod.dns.searches|2048"},
		},
		{
			name:   "dns option",
			change: withDNS(corev1.PodDNSConfig{Nameservers: []string{"192.0.2.1"}, Options: []corev1.PodDNSConfigOption{{Value: ptr.To("1")}}}),
			want:   []string{"Required|spec.pod.dns.options[0].name|ndots"},
		},
	})
}
