package process_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/test/framework/suite"
)

// The sample policy keeps pods on a device that is away: it takes the limit from the tolerations that admission
// has added, not from one that somebody has written, and nothing from pods that are not for devices.
func TestKeepPodsPolicy(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	policy, err := os.ReadFile(filepath.Join(e.Cluster.State().Source, "artifacts", "samples", "keep-pods-policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	e.Apply(t, string(policy))
	// limits of the tolerations for a Node that is away, of a pod as the cluster would take it.
	limits := func(ctx context.Context, change func(*corev1.PodSpec)) (string, error) {
		pod := suite.Pod(device, "host", "sleep", "1")
		change(&pod.Spec)
		created, err := e.Kube.CoreV1().Pods("edge").Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return "", err
		}
		found := map[string]string{}
		for _, toleration := range created.Spec.Tolerations {
			if toleration.Key == corev1.TaintNodeNotReady || toleration.Key == corev1.TaintNodeUnreachable {
				found[toleration.Key] = "none"
				if s := toleration.TolerationSeconds; s != nil {
					found[toleration.Key] = fmt.Sprint(*s)
				}
			}
		}
		return found[corev1.TaintNodeNotReady] + "/" + found[corev1.TaintNodeUnreachable], nil
	}
	for _, test := range []struct {
		what   string
		change func(*corev1.PodSpec)
		want   string
	}{
		{"a pod for devices", func(*corev1.PodSpec) {}, "none/none"},
		{"one that says how long", func(s *corev1.PodSpec) {
			s.Tolerations = append(s.Tolerations, corev1.Toleration{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists,
				Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](60)})
		}, "none/60"},
		{"one that is not for devices", func(s *corev1.PodSpec) { s.Tolerations = nil }, "300/300"},
	} {
		suite.Eventually(t, 60*time.Second, test.what, func(ctx context.Context) error {
			got, err := limits(ctx, test.change)
			if err == nil && got != test.want {
				err = fmt.Errorf("the limits are %s, want %s", got, test.want)
			}
			return err
		})
	}
}

// A Node that aranya makes of a device that is ready never has the taint of new Nodes; others keep it.
func TestReadyNodesPolicy(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	const aranya = "system:serviceaccount:aranya-system:aranya-apiserver"
	// tainted says whether a Node would be that this user, or else the administrator, creates.
	tainted := func(ctx context.Context, as string, ready corev1.ConditionStatus) (bool, error) {
		config := rest.CopyConfig(e.Config)
		config.Impersonate.UserName = as
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return false, err
		}
		node, err := client.CoreV1().Nodes().Create(ctx, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: suite.Name("tainted")},
			Spec: corev1.NodeSpec{Taints: []corev1.Taint{
				{Key: "a", Effect: corev1.TaintEffectNoSchedule}, {Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute},
			}},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}},
		}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return false, err
		}
		names := sets.New[string]()
		for _, taint := range node.Spec.Taints {
			names.Insert(taint.ToString())
		}
		is := names.Has(corev1.TaintNodeNotReady + ":NoSchedule")
		if want := sets.New("a:NoSchedule", corev1.TaintNodeNotReady+":NoExecute"); !names.IsSuperset(want) || is != (len(names) > len(want)) {
			return false, fmt.Errorf("the taints are %v", names)
		}
		return is, nil
	}
	for _, test := range []struct {
		what, as string
		ready    corev1.ConditionStatus
		want     bool
	}{
		{"of a device that is ready", aranya, corev1.ConditionTrue, false},
		{"of a device that is not", aranya, corev1.ConditionFalse, true},
		{"of the administrator", "", corev1.ConditionTrue, true},
	} {
		suite.Eventually(t, 60*time.Second, test.what, func(ctx context.Context) error {
			got, err := tainted(ctx, test.as, test.ready)
			if err == nil && got != test.want {
				err = fmt.Errorf("tainted: %t, want %t", got, test.want)
			}
			return err
		})
	}
}

// The sample policy keeps the proxy of Nodes from what aranya cannot: connections to pods, whose Node kube-apiserver does not tell.
func TestNodeProxyPolicy(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	own := nodeProxy(t, e, device)
	policy, err := os.ReadFile(filepath.Join(e.Cluster.State().Source, "artifacts", "samples", "node-proxy-policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	e.Apply(t, string(policy))
	upgrade := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {"portforward.k8s.io"}}
	for _, path := range []string{"portForward/edge/nobody", "x/..//portForward/edge/nobody", "%70ortForward%2Fedge/nobody", "exec/edge/nobody/main", "attach/edge/nobody/main"} {
		suite.Eventually(t, 60*time.Second, path+" is refused", func(context.Context) error {
			if code, body := ask(t, e.Config, http.MethodPost, own+path, upgrade); code != http.StatusForbidden || !strings.Contains(body, "aranya-node-proxy") {
				return fmt.Errorf("%d: %s", code, body)
			}
			return nil
		})
	}
	if code, body := ask(t, e.Config, http.MethodGet, own+"stats/summary", nil); code != http.StatusOK {
		t.Errorf("stats: %d: %s", code, body)
	}
	pod := e.RunPod(t, suite.Pod(device, "host", "sleep", "1000"))
	if out := e.Kubectl(t, "-n", "edge", "exec", pod.Name, "--", "echo", "hello"); out != "hello\n" {
		t.Errorf("kubectl exec: %q", out)
	}
}
