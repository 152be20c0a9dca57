package links

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// TestSessionsAreResumed: a further connection to a broker needs no certificate, unless other CAs are trusted
// meanwhile or the device shows one of its own.
func TestSessionsAreResumed(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	defer server.Close()
	dir := t.TempDir()
	ca, key := filepath.Join(dir, "ca"), filepath.Join(dir, "key")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	write(t, ca, certificate)
	der, err := x509.MarshalPKCS8PrivateKey(server.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))

	// resumed says whether a connection that the files are for was.
	resumed := func(files *clientTLS) bool {
		t.Helper()
		config, err := files.config()
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
		response, err := client.Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		return response.TLS.DidResume
	}
	plain, withCertificate := &clientTLS{caFile: ca}, &clientTLS{caFile: ca, certFile: ca, keyFile: key}
	for _, step := range []struct {
		what  string
		files *clientTLS
		want  bool
	}{
		{"the first", plain, false},
		{"the second", plain, true},
		{"the third", plain, true},
		{"the first with a certificate", withCertificate, false},
		{"the second with a certificate", withCertificate, false},
	} {
		if got := resumed(step.files); got != step.want {
			t.Errorf("%s: resumed %t", step.what, got)
		}
	}
	write(t, ca, append(certificate, certificate...))
	if resumed(plain) {
		t.Error("resumed with other CAs")
	}
	if !resumed(plain) {
		t.Error("not resumed with the same CAs")
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
