package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"
)

func TestLoadOrCreateAuthority(t *testing.T) {
	client := fake.NewClientset()
	var group sync.WaitGroup
	authorities := make([]*Authority, 8)
	for i := range authorities {
		group.Go(func() {
			a, err := LoadOrCreateAuthority(t.Context(), client, "aranya-system", NoDevices)
			if err != nil {
				t.Error(err)
				return
			}
			authorities[i] = a
		})
	}
	group.Wait()
	if t.Failed() {
		return
	}
	for _, a := range authorities {
		if !a.cert.Equal(authorities[0].cert) {
			t.Fatal("replicas that started together have different CAs")
		}
	}
	ca := authorities[0].cert
	if !ca.IsCA || ca.MaxPathLen != 0 || !ca.MaxPathLenZero || ca.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign ||
		time.Until(ca.NotAfter) < 9*365*24*time.Hour {
		t.Errorf("CA certificate: %+v", ca)
	}
	secret, err := client.CoreV1().Secrets("aranya-system").Get(t.Context(), AuthoritySecret, metav1.GetOptions{})
	if err != nil || secret.Type != corev1.SecretTypeTLS {
		t.Errorf("Secret of type %s, error %v", secret.Type, err)
	}
}

func TestLoadAuthorityRefusesBadSecret(t *testing.T) {
	good, err := newAuthoritySecret("ns")
	if err != nil {
		t.Fatal(err)
	}
	other, err := newAuthoritySecret("ns")
	if err != nil {
		t.Fatal(err)
	}
	a, err := authorityFromSecret(good, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := a.signServing(nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	leafKey, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]map[string][]byte{
		"empty":       nil,
		"another key": {"tls.crt": good.Data["tls.crt"], "tls.key": other.Data["tls.key"]},
		"not a CA": {
			"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]}),
			"tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: leafKey}),
		},
		"bad ca.crt": {"tls.crt": good.Data["tls.crt"], "tls.key": good.Data["tls.key"], "ca.crt": good.Data["tls.key"]},
	} {
		secret := good.DeepCopy()
		secret.Data = data
		client := fake.NewClientset(secret)
		_, err := LoadOrCreateAuthority(t.Context(), client, "ns", NoDevices)
		if err == nil || !strings.Contains(err.Error(), "restore the Secret") {
			t.Errorf("%s: %v", name, err)
		}
		kept, err := client.CoreV1().Secrets("ns").Get(t.Context(), AuthoritySecret, metav1.GetOptions{})
		if err != nil || len(kept.Data) != len(data) {
			t.Errorf("%s: the Secret was changed", name)
		}
	}
	if _, err := authorityFromSecret(good, time.Now().Add(caLifetime+time.Hour)); err == nil {
		t.Error("an expired CA was accepted")
	}
	client := fake.NewClientset()
	client.PrependReactor("create", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("denied")
	})
	if _, err := LoadOrCreateAuthority(t.Context(), client, "ns", NoDevices); err == nil || !strings.Contains(err.Error(), "ns/"+AuthoritySecret) {
		t.Errorf("a failure to create: %v", err)
	}
}

// What aranya cannot read in ca.crt would be missed only when the CA is replaced, by every device.
func TestTrustedAuthorities(t *testing.T) {
	current, err := newAuthoritySecret("ns")
	if err != nil {
		t.Fatal(err)
	}
	var certs []string
	for range 2 {
		other, err := newAuthoritySecret("ns")
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, string(other.Data[corev1.TLSCertKey]))
	}
	a, err := authorityFromSecret(current, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	leaf := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: deviceCert(t, a, time.Hour).Raw}))
	first, second := certs[0], certs[1]
	for name, test := range map[string]struct {
		data    string
		trusted int
		err     string // in the error; none is expected if empty
	}{
		"nothing":                   {},
		"blank":                     {data: " \n"},
		"one":                       {data: first, trusted: 1},
		"two":                       {data: first + "\n" + second + "\n\n", trusted: 2},
		"no newline at the end":     {data: strings.TrimSpace(first), trusted: 1},
		"CRLF":                      {data: strings.ReplaceAll(first+second, "\n", "\r\n"), trusted: 2},
		"text before each":          {data: "Certificate:\n    Data:\n" + first + "# next\n" + second, trusted: 2},
		"base64 twice":              {data: base64.StdEncoding.EncodeToString([]byte(first)), err: "at the beginning is no certificate"},
		"joined without a newline":  {data: strings.TrimSpace(first) + second, err: "-----BEGIN"},
		"the second is cut off":     {data: first + second[:len(second)/2], err: "after certificate 1 is no certificate"},
		"the first is cut off":      {data: first[:len(first)/2] + "\n" + second, err: "the PEM at the beginning is broken"},
		"the second without a head": {data: first + second[len("-----BEGIN CERTIFICATE-----\n"):], err: "after certificate 1 is no certificate"},
		"not a CA":                  {data: first + leaf, err: "certificate 2, of CN=edge/device-1"},
	} {
		t.Run(name, func(t *testing.T) {
			secret := current.DeepCopy()
			secret.Data[authorityTrustedKey] = []byte(test.data)
			logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true)))
			a, err := LoadOrCreateAuthority(klog.NewContext(t.Context(), logger), fake.NewClientset(secret), "ns", NoDevices)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), "key ca.crt") || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil || len(a.bundle) != 1+test.trusted {
				t.Fatalf("trusts %d, error %v", len(a.bundle), err)
			}
			logged := logger.GetSink().(ktesting.Underlier).GetBuffer().String()
			for _, cert := range a.bundle {
				if hash := fmt.Sprintf("%x", sha256.Sum256(cert.Raw)); !strings.Contains(logged, hash) {
					t.Errorf("%s is not in the log: %s", hash, logged)
				}
			}
		})
	}
}

// After a CA was replaced, devices of the former one are still known.
func TestReplacedAuthority(t *testing.T) {
	old, err := newAuthoritySecret("ns")
	if err != nil {
		t.Fatal(err)
	}
	next, err := newAuthoritySecret("ns")
	if err != nil {
		t.Fatal(err)
	}
	former, err := authorityFromSecret(old, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert := deviceCert(t, former, time.Hour)
	next.Data["ca.crt"] = old.Data["tls.crt"]
	a, err := authorityFromSecret(next, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if d, err := a.verifyDevice(cert, time.Now()); err != nil || d.Name != "device-1" {
		t.Errorf("verifyDevice: %v, %v", d, err)
	}
	if bundle := a.derBundle(); len(bundle) != 2 || string(bundle[0]) != string(a.cert.Raw) {
		t.Errorf("%d certificates in the bundle, or not the current one first", len(bundle))
	}
	delete(next.Data, "ca.crt")
	if a, err = authorityFromSecret(next, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.verifyDevice(cert, time.Now()); err == nil {
		t.Error("the certificate of a CA that is not trusted any more was accepted")
	}
}

func TestLostAuthorityIsNotReplaced(t *testing.T) {
	secret, err := newAuthoritySecret("ns")
	if err != nil {
		t.Fatal(err)
	}
	enrolled := []types.NamespacedName{{Namespace: "edge", Name: "device-1"}, {Namespace: "edge", Name: "device-2"}}
	for name, test := range map[string]struct {
		stored  []runtime.Object
		devices []types.NamespacedName
		err     error
		want    []string // in the error; none is expected if nil
	}{
		"first start":             {},
		"start":                   {stored: []runtime.Object{secret}, devices: enrolled},
		"the Secret is lost":      {devices: enrolled, want: []string{"ns/aranya-device-ca", "2 enrolled devices", "edge/device-1", "restore the Secret"}},
		"devices cannot be known": {err: errors.New("no leader"), want: []string{"ns/aranya-device-ca", "no leader"}},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset(test.stored...)
			_, err := LoadOrCreateAuthority(t.Context(), client, "ns", func(context.Context) ([]types.NamespacedName, error) {
				return test.devices, test.err
			})
			if (err != nil) != (test.want != nil) {
				t.Fatalf("error %v", err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error has no %q: %v", want, err)
				}
			}
			_, missing := client.CoreV1().Secrets("ns").Get(t.Context(), AuthoritySecret, metav1.GetOptions{})
			if (missing != nil) != (test.want != nil) {
				t.Errorf("the Secret afterwards: %v", missing)
			}
		})
	}
}

func TestKeepSecret(t *testing.T) {
	first, err := newAuthoritySecret("ns")
	if err != nil {
		t.Fatal(err)
	}
	first.Labels = map[string]string{"app": "aranya"}
	first.UID, first.ResourceVersion = "uid-1", "1"
	trusting := first.DeepCopy()
	trusting.Data[authorityTrustedKey] = first.Data[corev1.TLSCertKey]
	broken := first.DeepCopy()
	broken.Data = nil
	for name, test := range map[string]struct {
		stored []runtime.Object
		want   *corev1.Secret // in the cluster afterwards, but for its identity
		err    bool
	}{
		"there":     {stored: []runtime.Object{first}, want: first},
		"changed":   {stored: []runtime.Object{trusting}, want: trusting},
		"unusable":  {stored: []runtime.Object{broken}, want: broken, err: true},
		"nowhere":   {want: first},
		"elsewhere": {stored: []runtime.Object{&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: AuthoritySecret}}}, want: first},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset(test.stored...)
			kept, err := keepSecret(t.Context(), client, first)
			if (err != nil) != test.err {
				t.Fatalf("error %v", err)
			}
			stored, err := client.CoreV1().Secrets("ns").Get(t.Context(), AuthoritySecret, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(stored.Data, test.want.Data) || stored.Type != test.want.Type || !reflect.DeepEqual(stored.Labels, test.want.Labels) {
				t.Errorf("the cluster has %+v", stored)
			}
			if !test.err && !reflect.DeepEqual(kept.Data, test.want.Data) {
				t.Errorf("returned %+v", kept)
			}
		})
	}
}

// A Secret that is deleted while the server runs comes back as it was last.
func TestKeepSecretAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		a, err := LoadOrCreateAuthority(t.Context(), client, "ns", NoDevices)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			a.KeepSecret(ctx, client)
		}()
		secrets := client.CoreV1().Secrets("ns")
		secret, err := secrets.Get(ctx, AuthoritySecret, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		secret.Data[authorityTrustedKey] = secret.Data[corev1.TLSCertKey]
		if _, err := secrets.Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(keepInterval + time.Second) // of the bubble's clock
		if err := secrets.Delete(ctx, AuthoritySecret, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(keepInterval)
		again, err := secrets.Get(ctx, AuthoritySecret, metav1.GetOptions{})
		if err != nil || !reflect.DeepEqual(again.Data, secret.Data) {
			t.Errorf("after it was deleted: %v, error %v", again, err)
		}
		cancel()
		<-done
	})
}
