package process_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"arhat.dev/aranya/test/framework/suite"
)

// metrics reads those of aranya, past the aggregator.
func metrics(ctx context.Context, e *suite.Env) (string, error) {
	client, err := kubernetes.NewForConfig(e.Cluster.Direct(e.Config))
	if err != nil {
		return "", err
	}
	out, err := client.RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	return string(out), err
}

// TestParkedLinks: devices at rest give their connections up, which neither their Nodes nor users notice.
func TestParkedLinks(t *testing.T) {
	e := withBroker(t)
	parked := func(want string) func(context.Context) error {
		return func(ctx context.Context) error {
			out, err := metrics(ctx, e)
			if err == nil && !strings.Contains(out, "\naranya_gateway_parked "+want+"\n") {
				err = fmt.Errorf("not %s devices are parked", want)
			}
			return err
		}
	}
	node := func() string {
		n, err := e.Kube.CoreV1().Nodes().Get(t.Context(), device, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintln(n.UID, n.Spec.Taints, n.Status.Conditions)
	}
	since := func() string {
		return e.Kubectl(t, "-n", suite.Namespace, "get", "ed", device, "-o", "jsonpath={.status.phase} {.status.link.since}")
	}
	suite.Eventually(t, time.Minute, "all devices are parked", parked("2"))
	nodeBefore, linkBefore := node(), since()
	for range 3 {
		if out := e.Kubectl(t, "edge", "-n", suite.Namespace, "exec", device, "--", "echo", "awake"); out != "awake\n" {
			t.Errorf("exec said %q", out)
		}
		suite.Eventually(t, time.Minute, "the device is parked again", parked("2"))
	}
	if after := node(); after != nodeBefore {
		t.Errorf("the Node was\n%sand is\n%s", nodeBefore, after)
	}
	if after := since(); after != linkBefore || !strings.HasPrefix(after, "Online ") {
		t.Errorf("the link was %q and is %q", linkBefore, after)
	}
}
