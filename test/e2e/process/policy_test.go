package process_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
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

// The sample policy keeps the proxy of Nodes from what aranya cannot: connections to pods, whose Node kube-apiserver
// does not tell.
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

// The sample policy keeps pods off the devices of other namespaces, but for those whom an administrator lets.
func TestPodsPolicy(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	policy, err := os.ReadFile(filepath.Join(e.Cluster.State().Source, "artifacts", "samples", "pods-policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	e.Apply(t, string(policy))
	e.Apply(t, podsPolicyUsers)
	const (
		tenant, admin, aranya = "tenant", "", "system:serviceaccount:aranya-system:aranya-apiserver"
		own, foreign          = "visitors", suite.Namespace
	)
	pods := func(as string) corev1client.PodInterface {
		config := rest.CopyConfig(e.Config)
		config.Impersonate.UserName = as
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		return client.CoreV1().Pods(own)
	}
	pod := func(change func(*corev1.PodSpec)) *corev1.Pod {
		p := suite.Pod("nowhere", "host", "sleep", "1")
		p.Namespace, p.Spec.Tolerations = own, nil
		change(&p.Spec)
		return p
	}
	tolerate := func(toleration corev1.Toleration) func(*corev1.PodSpec) {
		return func(s *corev1.PodSpec) { s.Tolerations = append(s.Tolerations, toleration) }
	}
	of := func(namespace string) corev1.Toleration {
		return corev1.Toleration{Key: v1alpha1.TaintNamespace, Operator: corev1.TolerationOpEqual, Value: namespace}
	}
	all := corev1.Toleration{Operator: corev1.TolerationOpExists}
	dryRun := []string{metav1.DryRunAll}

	stays, err := pods(admin).Create(t.Context(), pod(tolerate(of(foreign))), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	update := func(ctx context.Context, change func(*corev1.PodSpec)) error {
		p, err := pods(tenant).Get(ctx, stays.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		p.Labels = map[string]string{"a": "b"}
		change(&p.Spec)
		_, err = pods(tenant).Update(ctx, p, metav1.UpdateOptions{DryRun: dryRun})
		return err
	}
	for _, test := range []struct {
		what    string
		as      string
		change  func(*corev1.PodSpec)
		update  bool
		refused string
	}{
		{what: "all taints", as: tenant, change: tolerate(all), refused: "spec.tolerations"},
		{what: "of another namespace", as: tenant, change: tolerate(of(foreign)), refused: "spec.tolerations"},
		{what: "of any namespace", as: tenant, change: tolerate(corev1.Toleration{Key: v1alpha1.TaintNamespace, Operator: corev1.TolerationOpExists}), refused: "spec.tolerations"},
		{what: "a Node by its name", as: tenant, change: func(s *corev1.PodSpec) { s.NodeName = device }, refused: "spec.nodeName"},
		{what: "all taints, later", as: tenant, change: tolerate(all), update: true, refused: "spec.tolerations"},
		{what: "of its own namespace", as: tenant, change: tolerate(of(own))},
		{what: "other taints", as: tenant, change: tolerate(corev1.Toleration{Key: "a", Operator: corev1.TolerationOpExists})},
		{what: "what it had already", as: tenant, change: tolerate(of(own)), update: true},
		{what: "an account that may", as: tenant, change: func(s *corev1.PodSpec) {
			s.ServiceAccountName, s.Tolerations = "platform", []corev1.Toleration{all, of(foreign)}
		}},
		{what: "an administrator", as: admin, change: func(s *corev1.PodSpec) { s.NodeName, s.Tolerations = device, []corev1.Toleration{all} }},
		{what: "aranya", as: aranya, change: func(s *corev1.PodSpec) { s.NodeName, s.Tolerations = device, []corev1.Toleration{all} }},
	} {
		suite.Eventually(t, 60*time.Second, test.what, func(ctx context.Context) error {
			var err error
			if test.update {
				err = update(ctx, test.change)
			} else {
				_, err = pods(test.as).Create(ctx, pod(test.change), metav1.CreateOptions{DryRun: dryRun})
			}
			if test.refused == "" {
				return err
			}
			if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "aranya-pods") || !strings.Contains(err.Error(), test.refused) {
				return errors.Join(errors.New("it is not refused"), err)
			}
			return nil
		})
	}
}

// podsPolicyUsers may create pods in a namespace that has no devices; those of the service account "platform" may go to
// others'.
const podsPolicyUsers = `
apiVersion: v1
kind: Namespace
metadata: {name: visitors}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: platform, namespace: visitors}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: visitors}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: tenant, namespace: visitors}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get, create, update]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: tenant, namespace: visitors}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: tenant}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: tenant}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: tolerate, namespace: visitors}
rules:
- {apiGroups: [aranya.arhat.dev], resources: [edgedevices], verbs: [tolerate]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: tolerate, namespace: visitors}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: tolerate}
subjects:
- {kind: ServiceAccount, name: platform, namespace: visitors}
`
