package process_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"arhat.dev/aranya/test/framework/suite"
)

// kubeletURL returns the URL of a path of the kubelet endpoint, as the Node publishes it.
func kubeletURL(t *testing.T, e *suite.Env, path string) string {
	t.Helper()
	node, err := e.Kube.CoreV1().Nodes().Get(t.Context(), device, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("https://%s:%d%s", node.Status.Addresses[0].Address, node.Status.DaemonEndpoints.KubeletEndpoint.Port, path)
}

// ask makes a request and returns the code and the body of the answer.
func ask(t *testing.T, config *rest.Config, method, url string, header http.Header) (int, string) {
	t.Helper()
	config = rest.CopyConfig(config)
	config.NextProtos = []string{"http/1.1"} // any header may be sent
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	client.Timeout = 20 * time.Second
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(req.Header, header)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func statusOf(t *testing.T, config *rest.Config, url string) int {
	t.Helper()
	code, _ := ask(t, config, http.MethodGet, url, nil)
	return code
}

// Whoever reaches the kubelet endpoint must be known, and have rights on the Node.
func TestKubeletEndpointIsGuarded(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	pod := e.RunPod(t, suite.Pod(device, "host", "sleep", "1000"))
	paths := []string{"/pods", "/stats/summary", "/containerLogs/edge/" + pod.Name + "/main", "/exec/edge/" + pod.Name + "/main?command=id&output=1"}
	anonymous := rest.AnonymousClientConfig(e.Config)
	nobody := user(t, e, "{apiGroups: [''], resources: [pods, pods/log, pods/exec], verbs: ['*']}")
	for _, path := range paths {
		url := kubeletURL(t, e, path)
		if code := statusOf(t, anonymous, url); code != http.StatusUnauthorized && code != http.StatusForbidden {
			t.Errorf("anonymous, %s: %d", path, code)
		}
		if code := statusOf(t, nobody, url); code != http.StatusForbidden {
			t.Errorf("a user without rights on nodes, %s: %d", path, code)
		}
	}
	if code := statusOf(t, e.Config, kubeletURL(t, e, "/containerLogs/edge/"+pod.Name+"/main")); code != http.StatusOK {
		t.Errorf("the administrator: %d", code)
	}
}

// The serving certificate comes from the cluster's own signer, so that kube-apiserver can verify it.
func TestKubeletServingCertificate(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	config, err := rest.TLSConfigFor(e.Config)
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimPrefix(kubeletURL(t, e, ""), "https://")
	conn, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	subject := conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject
	if len(subject.Organization) != 1 || subject.Organization[0] != "system:nodes" {
		t.Errorf("subject %s", subject)
	}
	requests, err := e.Kube.CertificatesV1().CertificateSigningRequests().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range requests.Items {
		if r.Spec.SignerName == certificatesv1.KubeletServingSignerName && r.Spec.Username != "system:serviceaccount:aranya-system:aranya-apiserver" {
			t.Errorf("request %s is of %s", r.Name, r.Spec.Username)
		}
	}
}

// nodeProxy returns the URL below which kube-apiserver forwards requests to the kubelet of a Node.
func nodeProxy(t *testing.T, e *suite.Env, node string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("without root the kubelet endpoint is on loopback, which the proxy of nodes refuses")
	}
	return e.Config.Host + "/api/v1/nodes/" + node + "/proxy/"
}

// All Nodes share one endpoint, and yet each has the paths of any kubelet.
func TestNodeProxy(t *testing.T) {
	e := suite.Get(t)
	for _, node := range []string{device, "device-2"} {
		for path, want := range map[string]string{
			"stats/summary":                    `"nodeName":"` + node + `"`,
			"nodes/" + node + "/stats/summary": `"nodeName":"` + node + `"`,
			"pods":                             `"kind":"PodList"`,
			"runningpods/":                     `"kind":"PodList"`,
			"metrics/resource":                 "resource_scrape_error 0",
			"configz":                          "kubeletconfig",
			"healthz":                          "ok",
		} {
			if code, body := ask(t, e.Config, http.MethodGet, nodeProxy(t, e, node)+path, nil); code != http.StatusOK || !strings.Contains(body, want) {
				t.Errorf("%s of %s: %d: %s", path, node, code, body)
			}
		}
	}
	port := strings.TrimPrefix(kubeletURL(t, e, ""), "https://")
	port = port[strings.LastIndex(port, ":"):]
	if code, body := ask(t, e.Config, http.MethodGet, nodeProxy(t, e, "https:"+device+port)+"stats/summary", nil); code != http.StatusOK || !strings.Contains(body, `"nodeName":"`+device+`"`) {
		t.Errorf("with scheme and port: %d: %s", code, body)
	}
	if code, body := ask(t, e.Config, http.MethodGet, nodeProxy(t, e, device)+"nodes/device-2/pods", nil); code != http.StatusForbidden {
		t.Errorf("another Node by the first: %d: %s", code, body)
	}
}

// Whoever has the proxy of one Node does not get by it at the pods of another, though both are behind one endpoint.
func TestNodeProxyOfOneDevice(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	own, other := nodeProxy(t, e, device), nodeProxy(t, e, "device-2")
	mine := e.RunPod(t, suite.Pod(device, "host", "sh", "-c", "echo hello; exec sleep 1000"))
	theirs := e.RunPod(t, suite.Pod("device-2", "host", "sleep", "1000"))
	config := clusterUser(t, e, "{apiGroups: [''], resources: [nodes/proxy], resourceNames: ["+device+"], verbs: ['*']}")
	suite.Eventually(t, 30*time.Second, "the user can read logs on the Node", func(context.Context) error {
		if code, body := ask(t, config, http.MethodGet, own+"containerLogs/edge/"+mine.Name+"/main", nil); code != http.StatusOK || body != "hello\n" {
			return fmt.Errorf("%d: %s", code, body)
		}
		return nil
	})
	if code, body := ask(t, config, http.MethodPost, own+"run/edge/"+mine.Name+"/main?cmd=echo+hi", nil); code != http.StatusOK || body != "hi\n" {
		t.Errorf("run on the Node: %d: %s", code, body)
	}
	logs, run := "containerLogs/edge/"+theirs.Name+"/main", "run/edge/"+theirs.Name+"/main?cmd=id"
	for _, test := range []struct {
		what, method, url string
		header            http.Header
		code              int
		want              string
	}{
		{"logs of another Node's pod", "GET", own + logs, nil, 403, "has no pod edge/" + theirs.Name},
		{"logs with a header of the user's", "GET", own + logs, http.Header{"X-Forwarded-Uri": {"/api/v1/nodes/device-2/proxy/" + logs}}, 403, "has no pod"},
		{"logs without a header", "GET", own + logs, http.Header{"Connection": {"X-Forwarded-Uri"}}, 403, "has no pod"},
		{"logs with dots in the path", "GET", own + logs + "/x/..", nil, 403, "names no Node"},
		{"a command in another Node's pod", "POST", own + run, nil, 403, "has no pod"},
		{"a command, upgraded", "POST", own + run, http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}}, 400, "does not upgrade"},
		{"pods of another Node", "GET", own + "nodes/device-2/pods", nil, 403, `asks for the Node "device-2"`},
		{"climbing to another Node", "GET", own + "../../device-2/proxy/pods", nil, 403, "names no Node"},
		{"the other Node itself", "GET", other + "pods", nil, 403, "cannot get resource"},
	} {
		if code, body := ask(t, config, test.method, test.url, test.header); code != test.code || !strings.Contains(body, test.want) {
			t.Errorf("%s: %d: %s", test.what, code, body)
		}
	}
}

// What a device keeps of Secrets is for the user it runs as alone.
func TestDeviceStateIsPrivate(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	name := suite.Name("private")
	e.Apply(t, fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {namespace: edge, name: %s}\nstringData: {word: open-sesame}\n", name))
	pod := suite.Pod(device, "host", "sh", "-c", `echo "$WORD"; exec sleep 1000`)
	pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "WORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: "word"}}}}
	created := e.RunPod(t, pod)
	suite.Eventually(t, 30*time.Second, "the pod has the secret", func(context.Context) error {
		if out := e.Kubectl(t, "-n", "edge", "logs", created.Name); out != "open-sesame\n" {
			return fmt.Errorf("log %q", out)
		}
		return nil
	})
	for _, pattern := range []string{"identity", "identity/*", "pods", "pods/desired", "pods/desired/*"} {
		paths, err := filepath.Glob(filepath.Join(e.Cluster.Dir, "devices", device, "state", pattern))
		if err != nil || len(paths) == 0 {
			t.Errorf("%s: %v, %v", pattern, paths, err)
		}
		for _, path := range paths {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: mode %v, %v", path, info.Mode(), err)
			}
		}
	}
}
