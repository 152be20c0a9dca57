package apiserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// brings has the cluster list a policy and its binding.
func (c *mainCluster) brings(file string) {
	c.t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		c.t.Fatal(err)
	}
	c.lists = map[string][]json.RawMessage{}
	for reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data))); ; {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		object, kind, err := clientscheme.Codecs.UniversalDeserializer().Decode(document, nil, nil)
		if err != nil {
			c.t.Fatal(err)
		}
		if policy, ok := object.(*admissionregistrationv1.ValidatingAdmissionPolicy); ok {
			// The defaults of kube-apiserver.
			constraints := policy.Spec.MatchConstraints
			constraints.NamespaceSelector, constraints.ObjectSelector = &metav1.LabelSelector{}, &metav1.LabelSelector{}
			constraints.MatchPolicy = ptr.To(admissionregistrationv1.Equivalent)
		}
		raw, err := json.Marshal(object)
		if err != nil {
			c.t.Fatal(err)
		}
		c.lists[kind.Kind] = append(c.lists[kind.Kind], raw)
	}
}

func deniedByPolicy(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), `you may not "share" edgedevices`)
}

// The sample policy lets only those open devices to other namespaces who have a right of their own for it.
func TestNamespaceTaintPolicy(t *testing.T) {
	cluster, kubeconfig := newMainCluster(t)
	cluster.brings("../../artifacts/samples/namespace-taint-policy.yaml")
	s := serve(t, cluster, kubeconfig, etcdDir(t))
	ctx := t.Context()
	device := func(name string, taint v1alpha1.NamespaceTaint) *v1alpha1.EdgeDevice {
		return &v1alpha1.EdgeDevice{ObjectMeta: objectMeta(name), Spec: v1alpha1.EdgeDeviceSpec{Node: v1alpha1.NodeSpec{NamespaceTaint: taint}}}
	}
	editor, admin := s.client(tokenEditor).AranyaV1alpha1().EdgeDevices("edge"), s.client(tokenUser).AranyaV1alpha1().EdgeDevices("edge")
	// Policies that are new take effect after a moment.
	if err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, 60*time.Second, true, func(ctx context.Context) (bool, error) {
		_, err := editor.Create(ctx, device("open", v1alpha1.NamespaceTaintNone), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return deniedByPolicy(err), nil
	}); err != nil {
		t.Fatalf("the policy is not enforced: %v", err)
	}
	for _, taint := range []v1alpha1.NamespaceTaint{v1alpha1.NamespaceTaintNone, v1alpha1.NamespaceTaintPreferNoSchedule} {
		if _, err := editor.Create(ctx, device("closed", taint), metav1.CreateOptions{}); !deniedByPolicy(err) {
			t.Errorf("an editor creates a device with %s: %v", taint, err)
		}
	}
	for _, taint := range []v1alpha1.NamespaceTaint{"", v1alpha1.NamespaceTaintNoSchedule, v1alpha1.NamespaceTaintNoExecute} {
		if _, err := editor.Create(ctx, device("any", taint), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
			t.Errorf("an editor creates a device with %q: %v", taint, err)
		}
	}
	if _, err := admin.Create(ctx, device("open", v1alpha1.NamespaceTaintNone), metav1.CreateOptions{}); err != nil {
		t.Errorf("who has the verb creates an open device: %v", err)
	}
	if _, err := editor.Create(ctx, device("closed", ""), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]struct {
		device string
		taint  v1alpha1.NamespaceTaint
		denied bool
	}{
		"open a device":                     {device: "closed", taint: v1alpha1.NamespaceTaintNone, denied: true},
		"open a device half":                {device: "closed", taint: v1alpha1.NamespaceTaintPreferNoSchedule, denied: true},
		"leave one as open as it is":        {device: "open", taint: v1alpha1.NamespaceTaintNone},
		"close one":                         {device: "open", taint: v1alpha1.NamespaceTaintNoSchedule},
		"change what does not open devices": {device: "closed", taint: v1alpha1.NamespaceTaintNoExecute},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := editor.Get(ctx, change.device, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			found.Spec.Node.NamespaceTaint, found.Spec.Node.Labels = change.taint, map[string]string{"a": "b"}
			if _, err = editor.Update(ctx, found, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}}); deniedByPolicy(err) != change.denied || (err != nil && !change.denied) {
				t.Errorf("got %v, denied should be %t", err, change.denied)
			}
		})
	}
	if err := s.shutdown(); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

// The sample policies about EdgeDevices refuse what they are for, and leave what there was before them.
func TestDevicePolicies(t *testing.T) {
	device := func(name, broker string) *v1alpha1.EdgeDevice {
		ed := &v1alpha1.EdgeDevice{ObjectMeta: objectMeta(name)}
		if broker != "" {
			ed.Spec.Connectivity = v1alpha1.Connectivity{Method: v1alpha1.ConnectivityMQTT, MQTTConfig: &v1alpha1.MQTTConfig{Server: broker}}
		}
		return ed
	}
	withPassword := func(ed *v1alpha1.EdgeDevice, secret string) *v1alpha1.EdgeDevice {
		packet := &ed.Spec.Connectivity.MQTTConfig.ConnectPacket
		packet.Username, packet.Password = "aranya", &v1alpha1.LocalSecretReference{Name: secret}
		return ed
	}
	const ours, other = "broker.example.com:8883", "10.0.0.1:22"
	for policy, tt := range map[string]struct {
		old                *v1alpha1.EdgeDevice // is there before the policy
		permitted, refused []*v1alpha1.EdgeDevice
		message            string
	}{
		"brokers": {
			old: device("old", other),
			permitted: []*v1alpha1.EdgeDevice{device("old", other), device("old", ours), device("old", ""), device("new", ours), device("new", ""),
				withPassword(device("old", ours), "broker")},
			refused: []*v1alpha1.EdgeDevice{device("new", other), device("new", "broker.example.com:88"), device("old", "10.0.0.1:23"),
				withPassword(device("old", other), "database")},
			message: "none of the brokers that are permitted here",
		},
		"names": {
			old:       device("old", ""),
			permitted: []*v1alpha1.EdgeDevice{device("old", other), device("edge.1", "")},
			refused:   []*v1alpha1.EdgeDevice{device("worker-1", ""), device("edge", ""), device("edge-eu.1", "")},
			message:   `the name must begin with "edge.",`,
		},
	} {
		t.Run(policy, func(t *testing.T) {
			cluster, kubeconfig := newMainCluster(t)
			dir, ctx := etcdDir(t), t.Context()
			s := serve(t, cluster, kubeconfig, dir)
			if _, err := s.client(tokenUser).AranyaV1alpha1().EdgeDevices("edge").Create(ctx, tt.old, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := s.shutdown(); err != nil {
				t.Fatal(err)
			}
			cluster.brings("../../artifacts/samples/" + policy + "-policy.yaml")
			s = serve(t, cluster, kubeconfig, dir)
			devices := s.client(tokenUser).AranyaV1alpha1().EdgeDevices("edge")
			try := func(ctx context.Context, ed *v1alpha1.EdgeDevice) error {
				if ed.Name != "old" {
					_, err := devices.Create(ctx, ed, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
					return err
				}
				found, err := devices.Get(ctx, ed.Name, metav1.GetOptions{})
				if err != nil {
					return err
				}
				found.Spec = ed.Spec
				_, err = devices.Update(ctx, found, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
				return err
			}
			for _, ed := range tt.refused {
				// Policies that are new take effect after a moment.
				var last error
				if err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, 60*time.Second, true, func(ctx context.Context) (bool, error) {
					last = try(ctx, ed)
					return apierrors.IsForbidden(last) && strings.Contains(last.Error(), tt.message), nil
				}); err != nil {
					t.Fatalf("%s %+v is not refused: %v", ed.Name, ed.Spec.Connectivity, last)
				}
			}
			for _, ed := range tt.permitted {
				if err := try(ctx, ed); err != nil {
					t.Errorf("%s %+v: %v", ed.Name, ed.Spec.Connectivity, err)
				}
			}
			if err := s.shutdown(); err != nil {
				t.Errorf("Run returned %v", err)
			}
		})
	}
}

// A cluster of Kubernetes 1.35 is one to serve.
func TestClusterWithoutMutatingAdmissionPolicies(t *testing.T) {
	cluster, kubeconfig := newMainCluster(t)
	cluster.lacks = "mutatingadmissionpolicies"
	s := serve(t, cluster, kubeconfig, etcdDir(t))
	if _, err := s.client(tokenUser).AranyaV1alpha1().EdgeDevices("edge").Create(t.Context(), &v1alpha1.EdgeDevice{ObjectMeta: objectMeta("d")}, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
}
