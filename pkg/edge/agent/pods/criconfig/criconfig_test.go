package criconfig

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

func testPod(containers ...v1.Container) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "uid", Labels: map[string]string{"a": "1", "b": "x\"y"},
			Annotations: map[string]string{"note": "n"}},
		Spec: v1.PodSpec{Containers: containers, NodeName: "node", ServiceAccountName: "sa"},
	}
}

func TestExpand(t *testing.T) {
	values := map[string]string{"A": "1", "B": "$(A)", "EMPTY": ""}
	for in, want := range map[string]string{
		"":            "",
		"plain":       "plain",
		"$(A)":        "1",
		"x$(A)y$(A)z": "x1y1z",
		"$(B)":        "$(A)", // not expanded twice
		"$(EMPTY)":    "",
		"$(NO)":       "$(NO)",
		"$$(A)":       "$(A)",
		"$$$(A)":      "$1",
		"$$$$(A)":     "$$(A)",
		"$A":          "$A",
		"$":           "$",
		"$$":          "$",
		"a$":          "a$",
		"$(A":         "$(A",
		"$(A$(A)":     "$(A$(A)",
		"$()":         "$()",
		"%(A)":        "%(A)",
		"pa$$word":    "pa$word",
	} {
		if got := expand(in, lookup(values)); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// What the cloud sends as a value has every "$" doubled: expansion must give the value back.
func FuzzExpand(f *testing.F) {
	for _, s := range []string{"", "$", "$$", "$(A)", "$$(A)", "$(", "a$(A)$$(B", "\x00$"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got := expand(strings.ReplaceAll(s, "$", "$$"), lookup(map[string]string{"A": "1"})); got != s {
			t.Errorf("doubled %q became %q", s, got)
		}
		expand(s, lookup(map[string]string{"A": "1"})) // must not panic
	})
}

func TestFieldValues(t *testing.T) {
	pod := testPod()
	node := &Node{HostIPs: []string{"192.0.2.1", "2001:db8::1"}}
	podIPs := []string{"10.0.0.2", "2001:db8::2"}
	for path, want := range map[string]string{
		"metadata.name": "web", "metadata.namespace": "ns", "metadata.uid": "uid",
		"metadata.labels": "a=\"1\"\nb=\"x\\\"y\"", "metadata.labels['a']": "1", "metadata.labels['no']": "", "metadata.annotations['note']": "n",
		"metadata.annotations": `note="n"`,
		"spec.nodeName":        "node", "spec.serviceAccountName": "sa",
		"status.hostIP": "192.0.2.1", "status.hostIPs": "192.0.2.1,2001:db8::1", "status.podIP": "10.0.0.2", "status.podIPs": "10.0.0.2,2001:db8::2",
	} {
		if got, err := fieldValue(pod, node, podIPs, path); err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"spec.containers", "metadata.name['x']", "", "['a']"} {
		if got, err := fieldValue(pod, node, podIPs, path); err == nil {
			t.Errorf("%s: got %q, want an error", path, got)
		}
	}
	if _, err := fieldValue(pod, &Node{}, nil, "status.hostIP"); err == nil {
		t.Error("a device without an address has none to give")
	}
}

func TestResourceValues(t *testing.T) {
	c := &v1.Container{Name: "c", Resources: v1.ResourceRequirements{
		Limits:   v1.ResourceList{v1.ResourceMemory: resource.MustParse("100Mi"), "hugepages-2Mi": resource.MustParse("4Mi")},
		Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m")},
	}}
	node := &Node{Allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1500m"), v1.ResourceMemory: resource.MustParse("1Gi")}}
	pod := &v1.Pod{}
	for _, tc := range []struct{ name, divisor, want string }{
		{"limits.memory", "0", "104857600"}, {"limits.memory", "1Mi", "100"}, {"limits.cpu", "0", "2"}, {"limits.cpu", "1m", "1500"},
		{"requests.cpu", "1m", "250"}, {"requests.cpu", "0", "1"}, {"requests.memory", "0", "0"}, {"limits.hugepages-2Mi", "1Mi", "4"},
	} {
		ref := &v1.ResourceFieldSelector{Resource: tc.name, Divisor: resource.MustParse(tc.divisor)}
		if got, err := resourceValue(pod, c, node, ref); err != nil || got != tc.want {
			t.Errorf("%s / %s: got %q, %v; want %q", tc.name, tc.divisor, got, err, tc.want)
		}
	}
	pod.Spec.Resources = &v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1250m"), v1.ResourceMemory: resource.MustParse("200Mi")}}
	for name, want := range map[string]string{"limits.cpu": "1250", "limits.memory": "104857600"} { // the container's own comes first
		if got, err := resourceValue(pod, c, node, &v1.ResourceFieldSelector{Resource: name, Divisor: resource.MustParse("1m")}); err != nil || got != want {
			t.Errorf("%s of a pod with limits: got %q, %v; want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"limits.gpu", "cpu", "usage.cpu"} {
		if _, err := resourceValue(pod, c, node, &v1.ResourceFieldSelector{Resource: name}); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestEnvironment(t *testing.T) {
	c := v1.Container{Name: "c", Env: []v1.EnvVar{
		{Name: "A", Value: "1"}, {Name: "B", Value: "$(A)$(C)"}, {Name: "C", Value: "3"}, {Name: "D", Value: "$(B)"}, {Name: "A", Value: "2"},
		{Name: "SECRET", Value: "pa$$(A)word"},
	}}
	envs, err := environment(testPod(c), &c, &Node{}, nil, Files{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, env := range envs {
		got = append(got, env.Key+"="+string(env.Value))
	}
	if want := []string{"A=2", "B=1$(C)", "C=3", "D=1$(C)", "SECRET=pa$(A)word"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	c.Env = []v1.EnvVar{{Name: "X", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{}}}}
	if _, err := environment(testPod(c), &c, &Node{}, nil, Files{}); err == nil {
		t.Error("an unresolved reference was accepted")
	}
}

func TestDNS(t *testing.T) {
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("# c\nnameserver 192.0.2.53\nsearch example.com local\noptions ndots:2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	host := &runtimeapi.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"example.com", "local"}, Options: []string{"ndots:2"}}
	cluster := &v1.PodDNSConfig{Nameservers: []string{"10.0.0.10"}}
	for _, tc := range []struct {
		name        string
		policy      v1.DNSPolicy
		hostNetwork bool
		podDNS      *v1.PodDNSConfig
		own         *v1.PodDNSConfig
		want        *runtimeapi.DNSConfig
		warnings    int
	}{
		{name: "default", policy: v1.DNSDefault, podDNS: cluster, want: host},
		{name: "cluster first", policy: v1.DNSClusterFirst, podDNS: cluster, want: &runtimeapi.DNSConfig{Servers: []string{"10.0.0.10"}}},
		{name: "cluster first, none known", policy: v1.DNSClusterFirst, want: host},
		{name: "cluster first on the host's network", policy: v1.DNSClusterFirst, hostNetwork: true, podDNS: cluster, want: host},
		{name: "with host net", policy: v1.DNSClusterFirstWithHostNet, hostNetwork: true, podDNS: cluster, want: &runtimeapi.DNSConfig{Servers: []string{"10.0.0.10"}}},
		{name: "none", policy: v1.DNSNone, own: &v1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}}, want: &runtimeapi.DNSConfig{Servers: []string{"1.1.1.1"}}},
		{name: "merged", policy: v1.DNSDefault, own: &v1.PodDNSConfig{Nameservers: []string{"192.0.2.53", "1.1.1.1"}, Searches: []string{"more"},
			Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: ptr.To("5")}, {Name: "edns0"}}},
			want: &runtimeapi.DNSConfig{Servers: []string{"192.0.2.53", "1.1.1.1"}, Searches: []string{"example.com", "local", "more"}, Options: []string{"ndots:5", "edns0"}}},
		{name: "too many", policy: v1.DNSNone, own: &v1.PodDNSConfig{Nameservers: []string{"1", "2", "3", "4"}, Searches: []string{strings.Repeat("x", 254), "ok"}},
			want: &runtimeapi.DNSConfig{Servers: []string{"1", "2", "3"}, Searches: []string{"ok"}}, warnings: 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pod := testPod()
			pod.Spec.DNSPolicy, pod.Spec.HostNetwork, pod.Spec.DNSConfig = tc.policy, tc.hostNetwork, tc.own
			got, warnings, err := podDNS(pod, &Node{ResolvConf: resolv, PodDNS: tc.podDNS})
			if err != nil || len(warnings) != tc.warnings {
				t.Errorf("got warnings %q, %v", warnings, err)
			}
			if got.String() != tc.want.String() {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestHostname(t *testing.T) {
	long := strings.Repeat("a", 62) + "-" + strings.Repeat("b", 9)
	for _, tc := range []struct {
		name         string
		change       func(*v1.PodSpec, *v1.Pod)
		want, domain string
		fails        bool
	}{
		{"pod's name", func(*v1.PodSpec, *v1.Pod) {}, "web", "", false},
		{"given", func(s *v1.PodSpec, _ *v1.Pod) { s.Hostname = "h" }, "h", "", false},
		{"subdomain", func(s *v1.PodSpec, _ *v1.Pod) { s.Hostname, s.Subdomain = "h", "sub" }, "h", "sub.ns.svc", false},
		{"fully qualified", func(s *v1.PodSpec, _ *v1.Pod) { s.Subdomain, s.SetHostnameAsFQDN = "sub", ptr.To(true) }, "web.sub.ns.svc", "sub.ns.svc", false},
		{"override", func(s *v1.PodSpec, _ *v1.Pod) { s.HostnameOverride = ptr.To("o.example") }, "o.example", "", false},
		{"override that is too long", func(s *v1.PodSpec, _ *v1.Pod) { s.HostnameOverride = ptr.To(strings.Repeat("o", 62) + ".example") },
			strings.Repeat("o", 62), "", false},
		{"fully qualified, all that the kernel takes", func(s *v1.PodSpec, _ *v1.Pod) {
			s.Subdomain, s.SetHostnameAsFQDN = strings.Repeat("s", 53), ptr.To(true)
		}, "web." + strings.Repeat("s", 53) + ".ns.svc", strings.Repeat("s", 53) + ".ns.svc", false},
		{"too long", func(_ *v1.PodSpec, p *v1.Pod) { p.Name = long }, strings.Repeat("a", 62), "", false},
		{"bad", func(s *v1.PodSpec, _ *v1.Pod) { s.Hostname = "-x" }, "", "", true},
		{"bad subdomain", func(s *v1.PodSpec, _ *v1.Pod) { s.Subdomain = "x.y" }, "", "", true},
	} {
		pod := testPod()
		tc.change(&pod.Spec, pod)
		got, err := kernelHostname(pod, &Node{})
		_, domain, _ := podHostname(pod, &Node{})
		if got != tc.want || domain != tc.domain || (err != nil) != tc.fails {
			t.Errorf("%s: got %q, %q, %v", tc.name, got, domain, err)
		}
	}
}

func TestClusterDomain(t *testing.T) {
	pod := testPod()
	pod.Spec.Subdomain, pod.Spec.SetHostnameAsFQDN = "sub", ptr.To(true)
	node := &Node{PodDNS: &v1.PodDNSConfig{Searches: []string{"example", "svc.cluster.local", "cluster.local"}}}
	if got, err := kernelHostname(pod, node); err != nil || got != "web.sub.ns.svc.cluster.local" {
		t.Errorf("got %q, %v", got, err)
	}
	pod.Spec.Subdomain = strings.Repeat("s", 40)
	if _, err := kernelHostname(pod, node); err == nil || !strings.Contains(err.Error(), "(64 characters is the max, 65 characters requested)") {
		t.Errorf("got %v", err)
	}
	content, err := hostsContent(pod, node, []string{"10.0.0.2"})
	if err != nil || !strings.Contains(string(content), "10.0.0.2\tweb."+pod.Spec.Subdomain+".ns.svc.cluster.local\tweb\n") {
		t.Errorf("got %s, %v", content, err)
	}
}

func TestHostsFile(t *testing.T) {
	umask := unix.Umask(0o077) // all users of the container read it nevertheless
	t.Cleanup(func() { unix.Umask(umask) })
	pod := testPod()
	pod.Spec.Subdomain = "sub"
	pod.Spec.HostAliases = []v1.HostAlias{{IP: "192.0.2.3", Hostnames: []string{"x", "y"}}}
	path, err := writeHosts(pod, &Node{}, t.TempDir(), []string{"10.0.0.2"})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != hostsMode {
		t.Errorf("got %v, %v", info.Mode(), err)
	}
	data, _ := os.ReadFile(path)
	for _, line := range []string{hostsHeader, "127.0.0.1\tlocalhost\n", "10.0.0.2\tweb.sub.ns.svc\tweb\n", "192.0.2.3\tx\ty\n"} {
		if !strings.Contains(string(data), line) {
			t.Errorf("no %q in:\n%s", line, data)
		}
	}
	pod.Spec.HostNetwork = true
	path, err = writeHosts(pod, &Node{}, t.TempDir(), []string{"10.0.0.2"})
	if err != nil {
		t.Fatal(err)
	}
	data, _ = os.ReadFile(path)
	if !strings.HasPrefix(string(data), hostsHeaderHost) || strings.Contains(string(data), "10.0.0.2") {
		t.Errorf("on the host's network:\n%s", data)
	}
}

func TestResources(t *testing.T) {
	list := func(cpu, memory string) v1.ResourceList {
		l := v1.ResourceList{}
		if cpu != "" {
			l[v1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			l[v1.ResourceMemory] = resource.MustParse(memory)
		}
		return l
	}
	for _, tc := range []struct {
		name             string
		requests, limits v1.ResourceList
		priority         int32
		want             []int64 // shares, quota, memory, oom score
	}{
		{"best effort", nil, nil, 0, []int64{2, 0, 0, 1000}},
		{"guaranteed", list("500m", "64Mi"), list("500m", "64Mi"), 0, []int64{512, 50000, 64 << 20, -997}},
		{"burstable", list("100m", "256Mi"), nil, 0, []int64{102, 0, 0, 750}},
		{"limit as request", nil, list("2", ""), 0, []int64{2048, 200000, 0, 999}},
		{"least quota", nil, list("1m", ""), 0, []int64{2, 1000, 0, 999}},
		{"nearly all memory", list("", "1023Mi"), nil, 0, []int64{2, 0, 0, 3}},
		{"critical", nil, nil, systemNodeCritical, []int64{2, 0, 0, -997}},
	} {
		c := v1.Container{Name: "c", Resources: v1.ResourceRequirements{Requests: tc.requests, Limits: tc.limits}}
		pod := testPod(c)
		pod.Spec.Priority = &tc.priority
		r := containerResources(pod, &pod.Spec.Containers[0], &Node{MemoryCapacity: 1 << 30})
		if got := []int64{r.CpuShares, r.CpuQuota, r.MemoryLimitInBytes, r.OomScoreAdj}; !slices.Equal(got, tc.want) {
			t.Errorf("%s: got shares, quota, memory, oom score %v, want %v", tc.name, got, tc.want)
		}
	}
}
