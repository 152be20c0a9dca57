package process_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"arhat.dev/aranya/test/framework/suite"
)

func manifest(name, spec string) string {
	return fmt.Sprintf("apiVersion: aranya.arhat.dev/v1alpha1\nkind: EdgeDevice\nmetadata:\n  namespace: edge\n  name: %s\nspec: %s\n", name, spec)
}

func TestUnknownFieldsAreReported(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	// Until kube-apiserver has merged aranya's OpenAPI document into its own, kubectl validates by
	// itself and says it in other words.
	suite.Eventually(t, 60*time.Second, "the server tells of both fields", func(context.Context) error {
		r := e.TryKubectl(t, manifest(suite.Name("strict"), "{connectivity: {methd: grpc}, colour: blue}"), "apply", "--validate=strict", "-f", "-")
		if r.Code == 0 {
			t.Fatalf("it was accepted: %+v", r)
		}
		if !strings.Contains(r.Stderr, `unknown field "spec.colour"`) || !strings.Contains(r.Stderr, `unknown field "spec.connectivity.methd"`) {
			return fmt.Errorf("got %+v", r)
		}
		return nil
	})
}

func TestInvalidFieldsAreRefused(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	for spec, want := range map[string]string{
		"{connectivity: {method: pigeon}}":                                "spec.connectivity.method: Unsupported value",
		"{connectivity: {method: mqtt}}":                                  "spec.connectivity.mqttConfig: Required value",
		"{connectivity: {heartbeatInterval: 1s}}":                         "spec.connectivity.heartbeatInterval: Invalid value",
		"{node: {labels: {arhat.dev/role: Boss}}}":                        "spec.node.labels",
		"{pod: {capacity: 0}}":                                            "spec.pod.capacity: Invalid value",
		"{connectivity: {method: mqtt, mqttConfig: {server: 'no port'}}}": "spec.connectivity.mqttConfig.server: Invalid value",
		"{node: {taints: [{key: a, effect: Sometimes}]}}":                 "spec.node.taints[0].effect",
	} {
		r := e.TryKubectl(t, manifest(suite.Name("invalid"), spec), "create", "-f", "-")
		if r.Code == 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("%s: got %+v, want %q", spec, r, want)
		}
	}
}

func TestServerSideApply(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	name := suite.Name("ssa")
	t.Cleanup(func() {
		if out, err := e.Cluster.Kubectl(context.Background(), "-n", "edge", "delete", "edgedevice", name).CombinedOutput(); err != nil {
			t.Errorf("clean up: %v: %s", err, out)
		}
	})
	apply := func(manager, spec string, flags ...string) suite.Result {
		args := append([]string{"apply", "--server-side", "--field-manager=" + manager, "-f", "-"}, flags...)
		return e.TryKubectl(t, manifest(name, spec), args...)
	}
	if r := apply("one", "{pod: {capacity: 10}, node: {labels: {site: a}}}"); r.Code != 0 {
		t.Fatalf("first apply: %+v", r)
	}
	if r := apply("two", "{pod: {capacity: 20}}"); r.Code == 0 || !strings.Contains(r.Stderr, `conflict with "one"`) || !strings.Contains(r.Stderr, ".spec.pod.capacity") {
		t.Errorf("conflict: %+v", r)
	}
	if r := apply("two", "{node: {labels: {rack: b}}}"); r.Code != 0 {
		t.Errorf("a field of its own: %+v", r)
	}
	if r := apply("two", "{pod: {capacity: 20}, node: {labels: {rack: b}}}", "--force-conflicts"); r.Code != 0 {
		t.Errorf("--force-conflicts: %+v", r)
	}
	got := e.Kubectl(t, "-n", "edge", "get", "edgedevice", name, "-o", "jsonpath={.spec.pod.capacity} {.spec.node.labels}")
	if got != `20 {"rack":"b","site":"a"}` {
		t.Errorf("after all: %s", got)
	}
}

func TestExplain(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	for path, want := range map[string]string{
		"edgedevices":                 "An? EdgeDevice|EdgeDevice is a machine at the edge",
		"ed.spec.connectivity":        `mqttConfig\s+<MQTTConfig>`,
		"ed.spec.connectivity.method": `(?s)ENUM:.*grpc.*mqtt`,
		"ed.status.link.roundTrip":    "round-trip time",
	} {
		if out := e.Kubectl(t, "explain", path); !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("kubectl explain %s: no %q in:\n%s", path, want, out)
		}
	}
}

func TestColumns(t *testing.T) {
	e := suite.Get(t)
	out := e.Kubectl(t, "-n", "edge", "get", "ed")
	if !regexp.MustCompile(`^NAME +STATUS +METHOD +NODE +VERSION +LAST-SEEN +AGE\n`).MatchString(out) {
		t.Errorf("columns: %s", out)
	}
	if !regexp.MustCompile(`(?m)^device-1 +Online +` + e.Method() + ` +device-1 +v\S+ +\S+ +\S+$`).MatchString(out) {
		t.Errorf("device-1: %s", out)
	}
	wide := e.Kubectl(t, "-n", "edge", "get", "ed", "-o", "wide")
	if !regexp.MustCompile(`OS/ARCH +KERNEL +RUNTIME +ADDRESS`).MatchString(wide) || !regexp.MustCompile(`linux/\w+`).MatchString(wide) {
		t.Errorf("wide: %s", wide)
	}
}

func TestFieldSelectors(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	name := suite.Name("selected")
	e.Apply(t, manifest(name, "{connectivity: {method: mqtt, mqttConfig: {server: 'broker:1883'}}}"))
	for selector, want := range map[string][]string{
		"metadata.name=device-2": {"device-2"},
		"spec.connectivity.method=mqtt,metadata.name!=device-1,metadata.name!=device-2": {name},
		"status.phase=Pending,metadata.name=" + name:                                    {name},
		"status.phase=Online": {"device-1", "device-2"},
	} {
		got := strings.Fields(e.Kubectl(t, "-n", "edge", "get", "ed", "--field-selector", selector, "-o", "name"))
		for i := range got {
			got[i] = strings.TrimPrefix(got[i], "edgedevice.aranya.arhat.dev/")
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s selects %v, want %v", selector, got, want)
		}
	}
	if r := e.TryKubectl(t, "", "-n", "edge", "get", "ed", "--field-selector", "spec.colour=blue"); r.Code == 0 {
		t.Errorf("an unknown field selects: %+v", r)
	}
}

func TestWatch(t *testing.T) {
	e := suite.Get(t)
	name := suite.Name("watched")
	watch := e.KubectlBackground(t, "-n", "edge", "get", "ed", "-w", "--output-watch-events", "--field-selector", "metadata.name="+name)
	e.Apply(t, manifest(name, "{}"))
	watch.Expect(t, 20*time.Second, `^ADDED +`+name+` +Pending`)
	e.Kubectl(t, "-n", "edge", "label", "ed", name, "a=b")
	watch.Expect(t, 20*time.Second, `^MODIFIED +`+name)
	e.Kubectl(t, "-n", "edge", "delete", "ed", name)
	watch.Expect(t, 20*time.Second, `^DELETED +`+name)
}

func TestDescribeTellsTheStory(t *testing.T) {
	e := suite.Get(t)
	out := e.Kubectl(t, "-n", "edge", "describe", "ed", device)
	for _, want := range []string{"TokenIssued", "Enrolled", "Connected", "Kernel Version", "Round Trip"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

// The status is aranya's: users cannot write it through the main resource, nor the certificate at all.
func TestStatusIsNotTheUsers(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	before := e.Kubectl(t, "-n", "edge", "get", "ed", device, "-o", "jsonpath={.status.certificate}")
	e.Kubectl(t, "-n", "edge", "patch", "ed", device, "--type=merge", `-p={"status":{"certificate":{"publicKeySHA256":"00"}}}`)
	e.TryKubectl(t, "", "-n", "edge", "patch", "ed", device, "--subresource=status", "--type=merge", `-p={"status":{"certificate":{"publicKeySHA256":"00"}}}`)
	if after := e.Kubectl(t, "-n", "edge", "get", "ed", device, "-o", "jsonpath={.status.certificate}"); after != before || before == "" {
		t.Errorf("certificate before %s, after %s", before, after)
	}
}
