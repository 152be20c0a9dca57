package certificate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/controllertest"
	"arhat.dev/aranya/pkg/controller/events"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type world struct {
	*controllertest.World
	*Store
}

func newWorld(t *testing.T) *world { return newWorldAt(t, clock.RealClock{}) }

func newWorldAt(t *testing.T, clock clock.WithTicker) *world {
	t.Helper()
	w := &world{World: controllertest.New(t)}
	recorder := events.New(w.Ctx)
	recorder.Start(events.Clients{Normal: w.Kube, Warning: w.Kube})
	t.Cleanup(recorder.Stop)
	var err error
	if w.Store, err = New(w.Ctx, Config{Kube: w.Kube, Devices: w.Devices, Lister: w.Lister, Events: recorder, Clock: clock}); err != nil {
		t.Fatal(err)
	}
	w.Start(w.Run)
	return w
}

// serial of the certificate for a name, 0 for none.
func (w *world) serial(name string) int64 {
	if c := w.Get(name); c != nil {
		return c.Leaf.SerialNumber.Int64()
	}
	return 0
}

func device(namespace string, age time.Duration, secret string) *aranya.EdgeDevice {
	ed := &aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "d", UID: "u", CreationTimestamp: metav1.NewTime(time.Now().Add(-age))}}
	if secret != "" {
		ed.Spec.Connectivity.GRPCConfig = &aranya.GRPCConfig{TLSSecretRef: &aranya.LocalSecretReference{Name: secret}}
	}
	return ed
}

func secret(t *testing.T, namespace string, serial int64, names ...string) *corev1.Secret {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), DNSNames: names, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "s"}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{
		corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}}
}

func (w *world) create(s *corev1.Secret) {
	w.T.Helper()
	if _, err := w.Kube.CoreV1().Secrets(s.Namespace).Create(w.Ctx, s, metav1.CreateOptions{}); err != nil {
		w.T.Fatal(err)
	}
}

func TestCertificateByName(t *testing.T) {
	w := newWorld(t)
	w.create(secret(t, "a", 1, "Device.example.com", "*.wild.example.com"))
	w.Edge.Add(device("a", time.Hour, "s"))
	w.Eventually("found", func() bool { return w.serial("device.example.com") == 1 })
	for name, want := range map[string]int64{
		"DEVICE.example.com": 1, "device.example.com.": 1, "x.wild.example.com": 1,
		"a.b.wild.example.com": 0, "wild.example.com": 0, "other.example.com": 0, "": 0,
	} {
		if got := w.serial(name); got != want {
			t.Errorf("%q: certificate %d, want %d", name, got, want)
		}
	}
	// A newer device does not take the name away, but has it when the older one is gone.
	w.create(secret(t, "b", 2, "device.example.com", "mine.example.com"))
	w.Edge.Add(device("b", time.Minute, "s"))
	w.Eventually("the newer device is known", func() bool { return w.serial("mine.example.com") == 2 })
	if w.serial("device.example.com") != 1 {
		t.Error("a newer device took the name of an older one")
	}
	w.Edge.Delete(device("a", time.Hour, "s"))
	w.Eventually("inherited", func() bool { return w.serial("device.example.com") == 2 && w.serial("x.wild.example.com") == 0 })
	// A new Secret is used without further ado.
	if _, err := w.Kube.CoreV1().Secrets("b").Update(w.Ctx, secret(t, "b", 3, "device.example.com"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Eventually("reloaded", func() bool { return w.serial("device.example.com") == 3 && w.serial("mine.example.com") == 0 })
	w.Edge.Modify(device("b", time.Minute, ""))
	w.Eventually("not wanted any more", func() bool { return w.serial("device.example.com") == 0 })
}

// A name belongs to the oldest device that brings it, whether by itself or by a wildcard.
func TestWildcardByAge(t *testing.T) {
	for name, tt := range map[string]struct{ older, younger string }{
		"the wildcard is older":   {"*.example.com", "device.example.com"},
		"the wildcard is younger": {"device.example.com", "*.example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.create(secret(t, "older", 1, tt.older))
			w.create(secret(t, "younger", 2, tt.younger))
			w.Edge.Add(device("younger", time.Minute, "s"))
			w.Eventually("the younger device is known", func() bool { return w.serial("device.example.com") == 2 })
			w.Edge.Add(device("older", time.Hour, "s"))
			w.Eventually("the older device has the name", func() bool { return w.serial("device.example.com") == 1 })
			w.Edge.Delete(device("older", time.Hour, "s"))
			w.Eventually("inherited", func() bool { return w.serial("device.example.com") == 2 })
		})
	}
}

// told says whether an EdgeDevice has an event with this reason and part of a message.
func (w *world) told(namespace, reason, message string) bool {
	w.T.Helper()
	list, err := w.Kube.CoreV1().Events(namespace).List(w.Ctx, metav1.ListOptions{})
	if err != nil {
		w.T.Fatal(err)
	}
	return slices.ContainsFunc(list.Items, func(e corev1.Event) bool { return e.Reason == reason && strings.Contains(e.Message, message) })
}

// Whoever comes second for a name is told so, whichever Secret comes first.
func TestNameOfAnotherDevice(t *testing.T) {
	for name, order := range map[string][]string{"the younger comes first": {"b", "a"}, "the older comes first": {"a", "b"}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.Edge.Add(device("a", time.Hour, "s"))
			w.Edge.Add(device("b", time.Minute, "s"))
			for i, namespace := range order {
				w.create(secret(t, namespace, int64(i+1), "device.example.com", namespace+".example.com"))
				w.Eventually("known", func() bool { return w.serial(namespace+".example.com") == int64(i+1) })
			}
			w.Eventually("told", func() bool {
				return w.told("b", ReasonNotServed, "not served for device.example.com: an EdgeDevice of another namespace, which is older")
			})
			if w.told("a", ReasonNotServed, "") || w.told("b", ReasonNotServed, "b.example.com") {
				t.Error("a name that is served is told as well")
			}
		})
	}
}

func TestExpiredCertificate(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	w := newWorldAt(t, clock)
	w.create(secret(t, "a", 1, "device.example.com"))
	w.Edge.Add(device("a", time.Hour, "s"))
	w.Eventually("served", func() bool { return w.serial("device.example.com") == 1 })
	if w.told("a", ReasonExpired, "") {
		t.Error("told before it has expired")
	}
	w.Eventually("told", func() bool {
		clock.Step(time.Hour)
		return w.told("a", ReasonExpired, "expired at")
	})
	if w.serial("device.example.com") != 1 {
		t.Error("another certificate is served")
	}
}

func TestUnusableSecret(t *testing.T) {
	w := newWorld(t)
	broken := secret(t, "a", 1, "device.example.com")
	broken.Data[corev1.TLSPrivateKeyKey] = []byte("nonsense")
	w.create(broken)
	w.Edge.Add(device("a", time.Hour, "s"))
	w.Eventually("told", func() bool {
		list, err := w.Kube.CoreV1().Events("a").List(w.Ctx, metav1.ListOptions{})
		return err == nil && len(list.Items) == 1 && list.Items[0].Reason == ReasonInvalid
	})
	if w.serial("device.example.com") != 0 {
		t.Error("an unusable certificate is served")
	}
}
