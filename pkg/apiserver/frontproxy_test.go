package apiserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"slices"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	testingclock "k8s.io/utils/clock/testing"
)

// fakeCA is a CA of a front proxy that can be replaced.
type fakeCA struct {
	dynamiccertificates.CAContentProvider
	options *x509.VerifyOptions
}

func (f *fakeCA) VerifyOptions() (x509.VerifyOptions, bool) {
	if f.options == nil {
		return x509.VerifyOptions{}, false
	}
	return *f.options, true
}

func (f *fakeCA) set(ca *x509.Certificate) {
	f.options = &x509.VerifyOptions{Roots: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	f.options.Roots.AddCert(ca)
}

type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue makes a certificate, of a CA if by is nil.
func issue(t *testing.T, by *issuer, name string, isCA bool, until time.Time, usage x509.ExtKeyUsage) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: isCA, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if !isCA {
		template.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	}
	self := &issuer{cert: template, key: key}
	if by == nil {
		by = self
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	if self.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return self
}

func TestFrontProxy(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	const client, server = x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth
	ca := issue(t, nil, "ca", true, start.Add(10*time.Hour), client)
	other := issue(t, nil, "ca", true, start.Add(10*time.Hour), client) // by the same name
	middle := issue(t, ca, "middle", true, start.Add(time.Hour), client)
	proxy := issue(t, ca, "proxy", false, start.Add(5*time.Hour), client)
	certificates := map[string][]*x509.Certificate{
		"proxy":       {proxy.cert},
		"by middle":   {issue(t, middle, "proxy", false, start.Add(5*time.Hour), client).cert, middle.cert},
		"no middle":   {issue(t, middle, "proxy", false, start.Add(5*time.Hour), client).cert},
		"of other":    {issue(t, other, "proxy", false, start.Add(5*time.Hour), client).cert},
		"for servers": {issue(t, ca, "proxy", false, start.Add(5*time.Hour), server).cert},
		"named user":  {issue(t, ca, "user", false, start.Add(5*time.Hour), client).cert},
	}

	content, names := &fakeCA{}, headerrequest.StaticStringSlice{"proxy"}
	allowed := headerrequest.StringSliceProviderFunc(func() []string { return names })
	var left int // to the library
	p := newFrontProxy(&authenticatorfactory.RequestHeaderConfig{
		CAContentProvider: content, AllowedClientNames: allowed,
		UsernameHeaders: headerrequest.StaticStringSlice{"X-Remote-User"}, UIDHeaders: headerrequest.StaticStringSlice{"X-Remote-Uid"},
		GroupHeaders: headerrequest.StaticStringSlice{"X-Remote-Group"}, ExtraHeaderPrefixes: headerrequest.StaticStringSlice{"X-Remote-Extra-"},
	}, authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) { left++; return nil, false, nil })).(*frontProxy)
	clock := testingclock.NewFakePassiveClock(start)
	p.clock = clock

	ask := func(who string, user string) bool {
		t.Helper()
		r := &http.Request{Header: http.Header{"X-Remote-Group": {"g"}, "X-Remote-Extra-Scopes": {"s"}}, TLS: &tls.ConnectionState{PeerCertificates: certificates[who]}}
		if user != "" {
			r.Header.Set("X-Remote-User", user)
		}
		before := left
		response, ok, err := p.AuthenticateRequest(r)
		if err != nil || ok == (left > before) {
			t.Fatalf("%s: %v %v, %d calls of the library", who, ok, err, left-before)
		}
		if ok && (response.User.GetName() != user || !slices.Equal(response.User.GetGroups(), []string{"g", "system:authenticated"}) ||
			response.User.GetExtra()["scopes"][0] != "s" || len(r.Header) > 0) {
			t.Errorf("user %+v, headers left %v", response.User, r.Header)
		}
		return ok
	}
	expect := func(want bool, who string) {
		t.Helper()
		for range 2 { // what is remembered must not make a difference
			if got := ask(who, "me"); got != want {
				t.Errorf("%s: let in %v, want %v", who, got, want)
			}
		}
	}

	expect(false, "proxy") // the CA is not known yet
	content.set(ca.cert)
	expect(true, "proxy")
	if ask("proxy", "") {
		t.Error("somebody without a name was let in")
	}
	if ask("", "me") {
		t.Error("a client without a certificate was let in")
	}
	for who, want := range map[string]bool{"by middle": true, "no middle": false, "of other": false, "for servers": false, "named user": false, "proxy": true} {
		expect(want, who)
		expect(true, "proxy")
		expect(want, who)
	}
	names = headerrequest.StaticStringSlice{"user"}
	expect(false, "proxy")
	names = headerrequest.StaticStringSlice{"proxy"}
	expect(true, "proxy")
	content.set(other.cert)
	expect(false, "proxy")
	content.set(ca.cert)
	expect(true, "by middle")
	clock.SetTime(start.Add(2 * time.Hour)) // the one in the middle has expired
	expect(false, "by middle")
	expect(true, "proxy")
	clock.SetTime(start.Add(6 * time.Hour))
	expect(false, "proxy")
}

func TestFrontProxyVerifiesOnce(t *testing.T) {
	ca := issue(t, nil, "ca", true, time.Now().Add(time.Hour), x509.ExtKeyUsageClientAuth)
	proxy := issue(t, ca, "proxy", false, time.Now().Add(time.Hour), x509.ExtKeyUsageClientAuth)
	content := &fakeCA{}
	content.set(ca.cert)
	p := newFrontProxy(&authenticatorfactory.RequestHeaderConfig{CAContentProvider: content, AllowedClientNames: headerrequest.StaticStringSlice{}}, nil).(*frontProxy)
	certificates := []*x509.Certificate{proxy.cert}
	if !p.trusts(certificates) {
		t.Fatal("not trusted")
	}
	// To verify a chain takes some dozens.
	if n := testing.AllocsPerRun(100, func() { p.trusts(certificates) }); n > 2 {
		t.Errorf("%v allocations for a certificate that is known", n)
	}
}
