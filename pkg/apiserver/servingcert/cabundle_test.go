package servingcert

import (
	"bytes"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorfake "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/fake"
	clocktesting "k8s.io/utils/clock/testing"

	"arhat.dev/aranya/test/framework/eventually"
)

const (
	apiServiceName = "v1alpha1.aranya.arhat.dev"
	serviceName    = "aranya-apiserver"
)

func apiService(change func(*apiregistrationv1.APIServiceSpec)) *apiregistrationv1.APIService {
	s := &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: apiServiceName, ResourceVersion: "1"},
		Spec:       apiregistrationv1.APIServiceSpec{Service: &apiregistrationv1.ServiceReference{Namespace: namespace, Name: serviceName}},
	}
	if change != nil {
		change(&s.Spec)
	}
	return s
}

func newCABundle(t *testing.T, m *Manager, objs ...*apiregistrationv1.APIService) (*CABundle, *aggregatorfake.Clientset) {
	t.Helper()
	client := aggregatorfake.NewSimpleClientset()
	for _, o := range objs {
		if _, err := client.ApiregistrationV1().APIServices().Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	client.ClearActions()
	c := NewCABundle(CABundleConfig{Client: client, APIService: apiServiceName, Namespace: namespace, Service: serviceName, Manager: m})
	t.Cleanup(c.queue.ShutDown)
	return c, client
}

func TestCABundleSync(t *testing.T) {
	clock := clocktesting.NewFakePassiveClock(epoch)
	m := newManager(t, fake.NewClientset(), clock)
	for name, test := range map[string]struct {
		have    *apiregistrationv1.APIService
		patched bool
	}{
		"none yet":   {},
		"empty":      {have: apiService(nil), patched: true},
		"up to date": {have: apiService(func(s *apiregistrationv1.APIServiceSpec) { s.CABundle = m.Bundle() })},
		"of another CA": {
			have: apiService(func(s *apiregistrationv1.APIServiceSpec) { s.CABundle = []byte("x") }), patched: true,
		},
		"insecure": {
			have: apiService(func(s *apiregistrationv1.APIServiceSpec) { s.InsecureSkipTLSVerify = true }), patched: true,
		},
		"another Service": {
			have: apiService(func(s *apiregistrationv1.APIServiceSpec) { s.Service.Name = "other" }),
		},
		"another namespace": {
			have: apiService(func(s *apiregistrationv1.APIServiceSpec) { s.Service.Namespace = "other" }),
		},
		"no Service": {
			have: apiService(func(s *apiregistrationv1.APIServiceSpec) { s.Service = nil }),
		},
	} {
		t.Run(name, func(t *testing.T) {
			var objs []*apiregistrationv1.APIService
			if test.have != nil {
				objs = append(objs, test.have)
			}
			c, client := newCABundle(t, m, objs...)
			if err := c.sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			patches := 0
			for _, a := range client.Actions() {
				if a.GetVerb() != "get" && a.GetVerb() != "patch" {
					t.Errorf("unexpected %s", a.GetVerb())
				}
				if a.GetVerb() == "patch" {
					patches++
				}
			}
			if (patches > 0) != test.patched {
				t.Fatalf("patched %d times, want patched: %t", patches, test.patched)
			}
			if !test.patched {
				return
			}
			got, err := client.ApiregistrationV1().APIServices().Get(t.Context(), apiServiceName, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Spec.CABundle, m.Bundle()) || got.Spec.InsecureSkipTLSVerify {
				t.Errorf("after the patch: insecureSkipTLSVerify %t, caBundle %q", got.Spec.InsecureSkipTLSVerify, got.Spec.CABundle)
			}
		})
	}
}

// TestCABundleOfAFasterReplicaStays has a controller whose manager has not seen a rotation yet.
func TestCABundleOfAFasterReplicaStays(t *testing.T) {
	kube := fake.NewClientset()
	clock := clocktesting.NewFakePassiveClock(epoch)
	behind := newManager(t, kube, clock)
	clock.SetTime(epoch.Add(caLifetime * 3 / 4))
	ahead := newManager(t, kube, clock)
	c, client := newCABundle(t, behind, apiService(func(s *apiregistrationv1.APIServiceSpec) { s.CABundle = ahead.Bundle() }))
	if err := c.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, a := range client.Actions() {
		if a.GetVerb() == "patch" {
			t.Error("put back an older bundle")
		}
	}
}

func TestCABundleRunFollows(t *testing.T) {
	kube := fake.NewClientset()
	clock := clocktesting.NewFakePassiveClock(epoch)
	m := newManager(t, kube, clock)
	c, client := newCABundle(t, m)
	began := watching(&client.Fake, client.Tracker(), "apiservices")
	start(t, c.Run)
	<-began
	bundle := func() []byte {
		got, err := client.ApiregistrationV1().APIServices().Get(t.Context(), apiServiceName, metav1.GetOptions{})
		if err != nil {
			return nil
		}
		return got.Spec.CABundle
	}
	if _, err := client.ApiregistrationV1().APIServices().Create(t.Context(), apiService(nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "the bundle of an APIService that is created later", func() bool { return bytes.Equal(bundle(), m.Bundle()) })

	clock.SetTime(epoch.Add(caLifetime * 3 / 4))
	if _, err := m.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "the bundle after a step of the rotation", func() bool { return bytes.Equal(bundle(), m.Bundle()) })
}
