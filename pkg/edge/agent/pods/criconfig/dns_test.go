package criconfig

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// The device's search list may have the root, which systemd-resolved writes where there is no domain.
func TestSearchList(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	for line, want := range map[string][]string{
		"search .":                         {},
		"search example.com. . local":      {"example.com", "local"},
		"domain example.com.":              {"example.com"},
		"search example.com\nsearch local": {"local"}, // the last one is valid
		"search example.com\nsearch .":     {},
	} {
		if err := os.WriteFile(path, []byte("nameserver 192.0.2.53\n"+line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		pod := testPod()
		pod.Spec.DNSPolicy = v1.DNSDefault
		got, _, err := podDNS(pod, &Node{ResolvConf: path})
		if err != nil || !slices.Equal(got.GetSearches(), want) {
			t.Errorf("%q: got %q, %v", line, got.GetSearches(), err)
		}
	}
}

// A resolver on the device's loopback, such as systemd-resolved, does not answer in a pod's own network.
func TestResolverOnLoopback(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"stub":  "nameserver 127.0.0.53\noptions edns0\n",
		"stub6": "nameserver ::1\nnameserver ::ffff:127.0.0.1\n",
		"mixed": "nameserver 127.0.0.53\nnameserver 192.0.2.1\n",
		"real":  "nameserver 192.0.2.53\n",
		"empty": "search example.com\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		own, upstream string
		hostNetwork   bool
		hostIPs       []string
		want          []string
		fails         bool
	}{
		{own: "stub", upstream: "real", want: []string{"192.0.2.53"}},
		{own: "stub6", upstream: "real", want: []string{"192.0.2.53"}},
		{own: "stub", upstream: "real", hostNetwork: true, want: []string{"127.0.0.53"}},
		{own: "mixed", upstream: "real", want: []string{"127.0.0.53", "192.0.2.1"}},
		{own: "stub", upstream: "absent", want: []string{"127.0.0.53"}},
		{own: "stub", upstream: "empty", want: []string{"127.0.0.53"}},
		{own: "stub", upstream: "stub6", want: []string{"127.0.0.53"}},
		{own: "empty", upstream: "real", want: []string{"192.0.2.53"}},
		// Runtimes copy the device's file, which is not there, into pods of which nothing is said.
		{own: "absent", upstream: "real", want: []string{"127.0.0.1"}},
		{own: "absent", upstream: "real", hostIPs: []string{"2001:db8::1"}, want: []string{"::1"}},
		{own: "absent", upstream: "real", hostIPs: []string{"192.0.2.1", "2001:db8::1"}, want: []string{"127.0.0.1", "::1"}},
		// The owner has named the file.
		{own: "stub", want: []string{"127.0.0.53"}},
		{own: "absent", fails: true},
	} {
		node := &Node{ResolvConf: filepath.Join(dir, tc.own), HostIPs: tc.hostIPs}
		if tc.upstream != "" {
			node.UpstreamResolvConf = filepath.Join(dir, tc.upstream)
		}
		pod := testPod()
		pod.Spec.DNSPolicy, pod.Spec.HostNetwork = v1.DNSDefault, tc.hostNetwork
		got, _, err := podDNS(pod, node)
		if (err != nil) != tc.fails || !slices.Equal(got.GetServers(), tc.want) {
			t.Errorf("%+v: got %v, %v", tc, got, err)
		}
	}
}
